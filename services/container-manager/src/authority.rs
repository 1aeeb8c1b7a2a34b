//! Whose a token is: credit-manager knows, and is not asked for every request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use access::{Authority, Caller, TokenHash};
use async_trait::async_trait;
use service_kit::Chain;
use tokio::time::Instant;
use tonic::Status;
use tracing::warn;

use crate::credit::Credit;

/// How long an answer holds: a revoked token opens this node for no longer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Answers kept. Guessed tokens must not fill the memory.
const ANSWERS_MAX: usize = 10_000;

struct Answer {
    at: Instant,
    caller: Option<Caller>,
}

pub(crate) struct CreditAuthority {
    credit: Arc<dyn Credit>,
    answers: Mutex<HashMap<TokenHash, Answer>>,
}

impl CreditAuthority {
    pub(crate) fn new(credit: Arc<dyn Credit>) -> Self {
        Self {
            credit,
            answers: Mutex::default(),
        }
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, HashMap<TokenHash, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Authority for CreditAuthority {
    async fn identify(&self, token: &TokenHash) -> Result<Option<Caller>, Status> {
        if let Some(answer) = self.answers().get(token)
            && answer.at.elapsed() < ANSWER_MAX
        {
            return Ok(answer.caller.clone());
        }
        // As of the question: the answer may have been under way for long.
        let at = Instant::now();
        let caller = self.credit.identify(token).await.map_err(|err| {
            warn!(error = %Chain(&err), "nobody says whose a token is");
            Status::unavailable(
                "whose the token is cannot be found out now (hint: does credit-manager answer this node?)",
            )
        })?;
        let mut answers = self.answers();
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|_, answer| answer.at.elapsed() < ANSWER_MAX);
        }
        if answers.len() < ANSWERS_MAX {
            let caller = caller.clone();
            answers.insert(*token, Answer { at, caller });
        }
        Ok(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credit::fake::FakeCredit;

    #[tokio::test(start_paused = true)]
    async fn a_revoked_token_opens_the_node_for_two_seconds_at_most() {
        let credit = Arc::new(FakeCredit::new());
        let authority = CreditAuthority::new(credit.clone());
        let token = TokenHash::of("laptop");
        credit.set_token("laptop", Some(Caller::Auditor));
        let ask = async || authority.identify(&token).await;
        assert_eq!(ask().await.unwrap(), Some(Caller::Auditor));
        credit.set_token("laptop", None);
        assert_eq!(
            ask().await.unwrap(),
            Some(Caller::Auditor),
            "it is not asked again"
        );
        tokio::time::advance(ANSWER_MAX).await;
        assert_eq!(ask().await.unwrap(), None);
        credit.set_down(true);
        tokio::time::advance(ANSWER_MAX).await;
        assert_eq!(ask().await.unwrap_err().code(), tonic::Code::Unavailable);
    }
}
