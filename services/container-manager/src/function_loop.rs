//! One function on this node: its queue, its container, its running tasks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use service_kit::Chain;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use units::{FunctionName, MilliCores, UserName};

use crate::attempt::{self, Plan};
use crate::bulletin::Bulletin;
use crate::claim::{Claim, ClaimError, Claimer};
use crate::credit::{Alert, FunctionEntry, Refusal, SessionState};
use crate::finish;
use crate::function::{FunctionSettings, retry_delay};
use crate::layout::{self, TaskKey};
use crate::node::Node;
use crate::problem::Problem;
use crate::queue::Queue;
use crate::quote;
use crate::recover::Adopted;
use crate::task::{Attempt, Verdict};
use crate::utils::{ImageObject, Script, Utils};
use crate::warm::{WarmContainer, WarmError};

/// A task that another node has, or that we had to give back, is looked at again after this.
const GIVEN_BACK_DELAY: Duration = Duration::from_secs(1);
/// After a failure of the store, of credit-manager or of a container's start.
const TROUBLE_DELAY: Duration = Duration::from_secs(2);
/// How often `quote/` is listed.
const QUOTES_PAUSE: Duration = Duration::from_secs(1);

/// What a function is told from outside.
pub struct News {
    /// Whether the user's standing allows new work.
    pub gate: watch::Receiver<bool>,
    /// Look into `input/` now.
    pub hint: Arc<Notify>,
    /// Whether the user's balance is low.
    pub alert: watch::Receiver<Option<Alert>>,
}

pub struct FunctionLoop {
    node: Arc<Node>,
    name: FunctionName,
    user: UserName,
    news: News,
    bulletin: Bulletin,
    utils: Utils,
    container: Option<Arc<WarmContainer>>,
    free_slots: BTreeSet<u32>,
    queue: Queue,
    running: JoinSet<(u32, Attempt)>,
    finishing: JoinSet<Attempt>,
    idle_since: Instant,
    poll: Duration,
    not_before: Instant,
    quotes_at: Instant,
    broken: Option<Broken>,
    /// The function that results go on to, found to be this user's.
    chain_known: Option<FunctionName>,
    /// What last kept tasks from being taken in, as the log was told.
    trouble: Option<String>,
}

/// An image that no container could be started from.
struct Broken {
    image: ImageObject,
    problem: Problem,
    failures: u32,
    /// When to try it again; absent for an image that can only be replaced.
    again_at: Option<Instant>,
}

/// What a function needs before it can run a task.
struct Recipe {
    settings: FunctionSettings,
    script: Script,
    image: ImageObject,
}

impl FunctionLoop {
    pub fn new(
        node: Arc<Node>,
        name: FunctionName,
        user: UserName,
        news: News,
        adopted: Option<Adopted>,
        shutdown: &CancellationToken,
    ) -> Self {
        let now = Instant::now();
        let mut function = Self {
            poll: node.config.poll_busy(),
            bulletin: Bulletin::new(node.clone(), name.clone(), user.clone()),
            node,
            name,
            user,
            news,
            utils: Utils::default(),
            container: None,
            // Until a container is there, its first slot stands for it.
            free_slots: BTreeSet::from([0]),
            queue: Queue::default(),
            running: JoinSet::new(),
            finishing: JoinSet::new(),
            idle_since: now,
            not_before: now,
            quotes_at: now,
            broken: None,
            chain_known: None,
            trouble: None,
        };
        if let Some(adopted) = adopted {
            function.adopt(adopted, shutdown);
        }
        function
    }

    /// Goes on with what an earlier manager started.
    fn adopt(&mut self, adopted: Adopted, shutdown: &CancellationToken) {
        self.free_slots = (0..adopted.container.concurrency()).collect();
        self.container = Some(adopted.container);
        for (attempt, licence, started) in adopted.running {
            let (node, slot, shutdown) = (self.node.clone(), started.run.slot, shutdown.clone());
            self.free_slots.remove(&slot);
            self.queue.take(attempt.key.clone());
            self.running.spawn(async move {
                (
                    slot,
                    attempt::watch_over(&node, started, attempt, licence, &shutdown).await,
                )
            });
        }
    }

    #[tracing::instrument(name = "function", skip_all, fields(function = %self.name))]
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            self.step(&shutdown).await;
            tokio::select! {
                () = tokio::time::sleep(self.poll) => {}
                () = self.news.hint.notified() => self.poll = self.node.config.poll_busy(),
                _ = self.news.gate.changed() => self.poll = self.node.config.poll_busy(),
                Some(ran) = self.running.join_next() => self.on_ran(ran),
                Some(finished) = self.finishing.join_next() => self.on_finished(finished),
                () = shutdown.cancelled() => {}
            }
        }
        // Every running task has seen the shutdown as well, and comes to rest.
        while let Some(ran) = self.running.join_next().await {
            self.on_ran(ran);
        }
        while self.finishing.join_next().await.is_some() {}
        if let Some(container) = self.container.take() {
            container.stop(&self.node, "shutdown").await;
        }
    }

    async fn step(&mut self, shutdown: &CancellationToken) {
        let now = Instant::now();
        let alert = self.news.alert.borrow().clone();
        self.bulletin.tell_alert(alert).await;
        if now >= self.quotes_at {
            self.quotes_at = now + QUOTES_PAUSE;
            if let Err(err) = quote::answer(&self.node, &self.name).await {
                debug!(error = %Chain(&err), "quotes not answered, will be again");
            }
        }
        let may_start = *self.news.gate.borrow();
        if may_start && !self.free_slots.is_empty() && now >= self.not_before {
            match self.take_in(shutdown).await {
                Ok(taken) => {
                    self.trouble = None;
                    self.poll = match taken {
                        0 => (self.poll * 2).min(self.node.config.poll_idle()),
                        _ => self.node.config.poll_busy(),
                    };
                }
                Err(err) => self.on_trouble(&err),
            }
        }
        if self.running.is_empty() {
            if self.finishing.is_empty() {
                self.bulletin.tell_balance_at_rest().await;
            }
            self.rest(may_start).await;
        } else {
            self.bulletin.tell_balance_of_work(now).await;
        }
    }

    /// Waits a little; says so once for each trouble, however long it lasts.
    fn on_trouble(&mut self, err: &ClaimError) {
        self.not_before = Instant::now() + TROUBLE_DELAY;
        let trouble = Chain(err).to_string();
        if self.trouble.as_ref() != Some(&trouble) {
            warn!(error = trouble, "no task taken in, will retry until it works");
            self.trouble = Some(trouble);
        }
    }

    /// Claims as many tasks as there are free slots. Returns how many.
    async fn take_in(&mut self, shutdown: &CancellationToken) -> Result<usize, ClaimError> {
        let wanted = self.free_slots.len();
        let candidates = self
            .queue
            .next(self.node.store.as_ref(), &self.name, wanted)
            .await?;
        if candidates.is_empty() {
            return Ok(0);
        }
        self.utils
            .refresh(self.node.store.as_ref(), self.name.as_str())
            .await?;
        let recipe = match self.recipe() {
            Ok(recipe) => recipe,
            Err(problem) => return self.wait(problem).await,
        };
        if let Some(chain) = &recipe.settings.chain
            && let Some(problem) = self.chain_problem(&chain.to).await?
        {
            return self.wait(problem).await;
        }
        if let Some(broken) = self.broken.as_ref().filter(|broken| broken.image == recipe.image)
            && broken.again_at.is_none_or(|at| Instant::now() < at)
        {
            return self.wait(broken.problem.clone()).await;
        }
        let container = match self.container(&recipe).await {
            Ok(container) => container,
            Err(err) => {
                let problem = self.on_start_failed(recipe.image, &err);
                return self.wait(problem).await;
            }
        };
        self.broken = None;
        let (mut taken, mut refused) = (0, None);
        for key in candidates {
            let Some(slot) = self.free_slots.first().copied() else {
                break;
            };
            match self.claim(&container, &key).await? {
                Claim::Won { attempt, state } => {
                    self.free_slots.remove(&slot);
                    self.queue.take(key);
                    let (script, settings) = (recipe.script.clone(), recipe.settings.clone());
                    let plan = Plan {
                        container: container.clone(),
                        slot,
                        script,
                        settings,
                    };
                    self.spawn(plan, *attempt, state, shutdown.clone());
                    taken += 1;
                }
                Claim::Cut { attempt, err } => {
                    self.give_back(*attempt).await;
                    return Err(err.into());
                }
                Claim::Lost => {}
                Claim::Parked { reason } => info!(%key, reason, "task cannot run, parked"),
                Claim::Refused {
                    refusal: Refusal::NoFunds,
                    message,
                } => {
                    info!(message, "no funds for new work");
                    self.not_before = Instant::now() + GIVEN_BACK_DELAY;
                    break;
                }
                Claim::Refused {
                    refusal: refusal @ (Refusal::Runway | Refusal::SpendLimit),
                    message,
                } => {
                    self.not_before = Instant::now() + GIVEN_BACK_DELAY;
                    refused = Some(over_limit(refusal, message));
                    break;
                }
                Claim::Refused { refusal, message } => {
                    debug!(%key, ?refusal, message, "claim refused");
                    self.queue.defer(key, GIVEN_BACK_DELAY);
                }
            }
        }
        match refused {
            Some(problem) => {
                self.wait(problem).await?;
            }
            None => self.bulletin.all_is_well().await?,
        }
        Ok(taken)
    }

    /// Takes nothing in before the problem is mended.
    async fn wait(&mut self, problem: Problem) -> Result<usize, ClaimError> {
        self.poll = self.node.config.poll_idle();
        self.bulletin.tell_problem(problem).await?;
        Ok(0)
    }

    fn recipe(&self) -> Result<Recipe, Problem> {
        let settings = self.utils.settings()?;
        let script = self.utils.script()?;
        let image = self.utils.image(&settings)?;
        Ok(Recipe {
            settings,
            script,
            image,
        })
    }

    /// Why results cannot go on to that function; `None` if they can. A function never changes hands, so one that was found
    /// good stays so.
    async fn chain_problem(&mut self, to: &FunctionName) -> Result<Option<Problem>, ClaimError> {
        if self.chain_known.as_ref() == Some(to) {
            return Ok(None);
        }
        let functions = self.node.credit.functions().await?;
        let is_ours = |function: &FunctionEntry| function.name == *to && function.user == self.user;
        if functions.iter().any(is_ours) {
            self.chain_known = Some(to.clone());
            return Ok(None);
        }
        Ok(Some(Problem::new(
            format!(
                "`chain.to` in `{}` names `{to}`, which is no function of {}",
                layout::SETTINGS,
                self.user
            ),
            format!(
                "deploy it with `gridfaas function create {to} --user {}`, or mend the file",
                self.user
            ),
        )))
    }

    async fn container(&mut self, recipe: &Recipe) -> Result<Arc<WarmContainer>, WarmError> {
        if let Some(container) = &self.container {
            if container.is_alive() {
                return Ok(container.clone());
            }
            container.stop(&self.node, "it died").await;
            self.container = None;
        }
        let container = WarmContainer::start(
            &self.node,
            &self.name,
            &self.user,
            &recipe.settings,
            &recipe.image,
        )
        .await?;
        // Slots of a dead container whose tasks are still coming to rest are counted back in by `on_ran`.
        self.free_slots = (0..container.concurrency()).collect();
        self.container = Some(container.clone());
        Ok(container)
    }

    fn on_start_failed(&mut self, image: ImageObject, err: &WarmError) -> Problem {
        let problem = cannot_start(err);
        let before = self.broken.take().filter(|broken| broken.image == image);
        let failures = before.map_or(0, |broken| broken.failures) + 1;
        let only_replaced = matches!(err, WarmError::Image(image) if !image.is_transient());
        let delay = match err {
            // Others may stop at any moment.
            WarmError::Memory(_) => TROUBLE_DELAY,
            _ => retry_delay(failures),
        };
        let again_at = (!only_replaced).then(|| Instant::now() + delay);
        self.broken = Some(Broken {
            image,
            problem: problem.clone(),
            failures,
            again_at,
        });
        problem
    }

    async fn claim(&self, container: &WarmContainer, key: &TaskKey) -> Result<Claim, ClaimError> {
        let claimer = Claimer {
            store: self.node.store.as_ref(),
            credit: self.node.credit.as_ref(),
            journal: &self.node.journal,
            function: &self.name,
            capacity: MilliCores::from_millicores(
                container.cpu_max().millicores() / container.concurrency().max(1),
            ),
            bytes_max: self.node.config.fetch_bytes_max(),
        };
        claimer.claim(key, self.node.clock.now()).await
    }

    fn spawn(&mut self, plan: Plan, attempt: Attempt, session: SessionState, shutdown: CancellationToken) {
        let node = self.node.clone();
        self.running.spawn(async move {
            let attempt = attempt::execute(&node, &plan, attempt, session, &shutdown).await;
            (plan.slot, attempt)
        });
    }

    /// Ends an attempt whose object could not be fetched.
    async fn give_back(&mut self, attempt: Attempt) {
        self.queue.take(attempt.key.clone());
        let attempt = attempt::abandoned(&self.node, attempt, "the object store failed").await;
        self.finish(attempt);
    }

    fn finish(&mut self, attempt: Attempt) {
        let node = self.node.clone();
        self.finishing.spawn(async move {
            finish::finish(&node, attempt.clone()).await;
            attempt
        });
    }

    fn on_ran(&mut self, ran: Result<(u32, Attempt), tokio::task::JoinError>) {
        let (slot, attempt) = ran.expect("a task's future does not panic and is not aborted");
        if self
            .container
            .as_ref()
            .is_none_or(|container| slot < container.concurrency())
        {
            self.free_slots.insert(slot);
        }
        self.idle_since = Instant::now();
        self.poll = self.node.config.poll_busy();
        self.finish(attempt);
    }

    fn on_finished(&mut self, finished: Result<Attempt, tokio::task::JoinError>) {
        let attempt = finished.expect("a task's future does not panic and is not aborted");
        self.queue.leave(&attempt.key);
        let failures = attempt.licence().map_or(0, |licence| licence.failures);
        let delay = match attempt.verdict() {
            Some(Verdict::Failed) => retry_delay(failures + 1),
            Some(Verdict::Aborted | Verdict::PlatformFault) => GIVEN_BACK_DELAY,
            _ => return,
        };
        self.queue.defer(attempt.key, delay);
    }

    /// Stops a container that has been idle for longer than the function's timeout, or that nobody may use.
    async fn rest(&mut self, may_start: bool) {
        let Some(container) = &self.container else { return };
        let why = if !container.is_alive() {
            "it died"
        } else if !may_start {
            "no funds"
        } else {
            // The user may have changed the timeout meanwhile.
            if let Err(err) = self
                .utils
                .refresh(self.node.store.as_ref(), self.name.as_str())
                .await
            {
                debug!(error = %Chain(&err), "timeout not read");
            }
            if self.idle_since.elapsed() <= self.utils.idle_timeout() {
                return;
            }
            "idle"
        };
        container.stop(&self.node, why).await;
        self.container = None;
        self.free_slots = BTreeSet::from([0]);
    }
}

fn over_limit(refusal: Refusal, message: String) -> Problem {
    let hint = if refusal == Refusal::Runway {
        "deposit, or wait until other tasks have ended"
    } else {
        "raise the limit, or wait until other tasks have ended"
    };
    Problem::with_figures(message, hint)
}

fn cannot_start(err: &WarmError) -> Problem {
    if let WarmError::Memory(full) = err {
        let hint = if full.is_for_good() {
            "lower `memory_mib` or `concurrency` in `utils/function.toml`"
        } else {
            "the tasks wait until other containers have stopped"
        };
        return Problem::with_figures(full.to_string(), hint);
    }
    let hint = match err {
        WarmError::Image(image) if !image.is_transient() => "upload a working image under `utils/`",
        WarmError::Staging(_) => "see the objects under `staging/`",
        WarmError::Image(_)
        | WarmError::Cgroup(_)
        | WarmError::Container(_)
        | WarmError::Memory(_)
        | WarmError::Disk { .. } => {
            "the tasks wait and are tried again; if it goes on, tell the operator of this node"
        }
    };
    Problem::new(Chain(err).to_string(), hint)
}
