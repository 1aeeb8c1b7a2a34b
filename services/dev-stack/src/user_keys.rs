//! Users' keys to the store: credit-manager knows which are in force and what they open, and the secret of each follows
//! from the stack's master key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use access::client::Meant;
use access::identity::Identity;
use access::pki::Pki;
use access::s3::{AccessKey, S3Secrets};
use access::tls::ClientTls;
use access::{Channel, Target, book};
use async_trait::async_trait;
use proto::credit::v1::ResolveS3KeyRequest;
use proto::credit::v1::access_service_client::AccessServiceClient;
use store::{AccessKeys, Buckets, Credential, Unavailable};
use tonic::Code;

use crate::endpoints::Endpoints;
use crate::secrets::Keys;
use crate::settings;

/// How long an answer is remembered: a key that was made anew opens nothing after that.
const REMEMBERED: Duration = Duration::from_secs(2);
/// Keys remembered. Guessed ones must not fill the memory.
const REMEMBERED_MAX: usize = 10_000;

pub(crate) struct UserKeys {
    secrets: S3Secrets,
    credit: AccessServiceClient<Channel>,
    remembered: Mutex<HashMap<String, (Instant, Credential)>>,
}

impl UserKeys {
    /// Connects when a key is first looked up, as the stack's node.
    pub(crate) fn new(endpoints: &Endpoints, keys: &Keys, pki: Option<&Pki>) -> anyhow::Result<Self> {
        let node = Identity::Node(settings::NODE.parse()?);
        let tls = pki.map(|pki| ClientTls::client(&pki.files(&node))).transpose()?;
        let token_file = settings::credit_folder(&endpoints.data_dir).join(book::NODE_TOKEN);
        let target = Target {
            url: endpoints.credit_url.clone(),
            meant: Meant::CreditManager,
            token_file: tls.is_none().then_some(token_file),
            tls: tls.map(Arc::new),
        };
        Ok(Self {
            secrets: S3Secrets::new(&keys.s3_master_key),
            credit: AccessServiceClient::new(target.connect_lazy()?),
            remembered: Mutex::default(),
        })
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Credential)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl AccessKeys for UserKeys {
    async fn find(&self, access_key: &str, now: bool) -> Result<Option<Credential>, Unavailable> {
        let Some(key) = AccessKey::parse(access_key) else {
            return Ok(None);
        };
        if let Some((at, credential)) = self.remembered().get(access_key)
            && !now
            && at.elapsed() < REMEMBERED
        {
            return Ok(Some(credential.clone()));
        }
        // As of the question: the answer may have been under way for long.
        let at = Instant::now();
        let request = ResolveS3KeyRequest {
            access_key: access_key.to_owned(),
        };
        let opened = match self.credit.clone().resolve_s3_key(request).await {
            Ok(reply) => reply.into_inner(),
            Err(status) if status.code() == Code::NotFound => {
                self.remembered().remove(access_key);
                return Ok(None);
            }
            Err(status) => return Err(Unavailable(status.into())),
        };
        let credential = Credential {
            access_key: access_key.to_owned(),
            secret_key: self.secrets.secret(&key),
            buckets: Buckets::only(opened.buckets),
        };
        let mut remembered = self.remembered();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        }
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(access_key.to_owned(), (at, credential.clone()));
        }
        Ok(Some(credential))
    }
}
