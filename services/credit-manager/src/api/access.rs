//! Tokens, and users' keys to the embedded object store.

use std::sync::Arc;

use access::book::{Book, BookError, Token};
use access::s3::{AccessKey, S3Secrets};
use access::{Authority, Caller, TokenHash};
use async_trait::async_trait;
use proto::credit::v1 as wire;
use proto::credit::v1::access_service_server::AccessService;
use proto::{InvalidField, parse};
use service_kit::Clock;
use tonic::{Request, Response, Status};
use tracing::info;
use units::UserName;

use super::accounts::optional;
use super::status::from_command;
use crate::writer::Writer;

/// Ten years: whoever wants more does not want a token that expires.
const LIFETIME_SECS_MAX: u64 = 10 * 366 * 24 * 3600;
const LABEL_CHARS_MAX: usize = 64;

/// Knows every token, because it keeps them.
pub struct LocalAuthority {
    pub book: Arc<Book>,
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl Authority for LocalAuthority {
    async fn identify(&self, token: &TokenHash) -> Result<Option<Caller>, Status> {
        Ok(self.book.identify(token, self.clock.now()))
    }
}

pub struct AccessApi {
    pub book: Arc<Book>,
    pub writer: Writer,
    pub clock: Arc<dyn Clock>,
    /// `None`: the object store is another than the embedded one.
    pub s3: Option<S3Secrets>,
}

impl AccessApi {
    async fn check_user(&self, user: &UserName) -> Result<(), Status> {
        let user = user.clone();
        let known = self.writer.call(move |desk| Ok(desk.bank.check_user(&user)?));
        known.await.map_err(|err| from_command(&err))
    }

    /// Changes the book, which waits for the disk.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Book) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let book = self.book.clone();
        let changed = tokio::task::spawn_blocking(move || change(&book)).await;
        changed.map_err(|err| Status::internal(err.to_string()))?
    }
}

#[tonic::async_trait]
impl AccessService for AccessApi {
    async fn create_token(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Result<Response<wire::CreateTokenResponse>, Status> {
        let message = request.into_inner();
        let caller = holder(&message)?;
        if let Caller::User(user) = &caller {
            self.check_user(user).await?;
        }
        if message.label.chars().count() > LABEL_CHARS_MAX || message.label.chars().any(char::is_control) {
            let problem = format!("is not at most {LABEL_CHARS_MAX} printable characters");
            return Err(InvalidField::new("label", problem).into());
        }
        if !(1..=LIFETIME_SECS_MAX).contains(&message.lifetime_s) {
            return Err(InvalidField::new("lifetime_s", "is not between a second and ten years").into());
        }
        let created_at = self.clock.now();
        let lifetime_ms = i64::try_from(message.lifetime_s.saturating_mul(1000)).unwrap_or(i64::MAX);
        let token = Token {
            caller,
            label: message.label,
            created_at,
            expires_at: created_at.plus_ms(lifetime_ms),
        };
        let kept = token.clone();
        let (secret, hash) = self.change(move |book| Ok(book.create(kept)?)).await?;
        info!(token_id = hash.id(), role = %token.caller.role(), "token created");
        Ok(Response::new(wire::CreateTokenResponse {
            token: Some(wire_token(&hash, &token)),
            secret: secret.expose().to_owned(),
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<wire::ListTokensRequest>,
    ) -> Result<Response<wire::ListTokensResponse>, Status> {
        let caller = Caller::of(&request)?;
        let user = caller.narrow(optional("user", &request.into_inner().user)?)?;
        let wanted = user.map(Caller::User);
        let mut tokens = self.book.tokens(self.clock.now());
        tokens.retain(|(_, token)| wanted.as_ref().is_none_or(|wanted| token.caller == *wanted));
        tokens.sort_by_key(|(_, token)| token.created_at);
        Ok(Response::new(wire::ListTokensResponse {
            tokens: tokens
                .iter()
                .map(|(hash, token)| wire_token(hash, token))
                .collect(),
        }))
    }

    async fn revoke_token(
        &self,
        request: Request<wire::RevokeTokenRequest>,
    ) -> Result<Response<wire::RevokeTokenResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = request.into_inner().token_id;
        let revoked = id.clone();
        let may = move |token: &Token| match &caller {
            // Others' tokens are not even there.
            Caller::User(_) if token.caller != caller => Err(BookError::UnknownToken(id).into()),
            _ => Ok(()),
        };
        let (hash, token) = self.change(move |book| book.revoke(&revoked, may)).await?;
        info!(token_id = hash.id(), role = %token.caller.role(), "token revoked");
        Ok(Response::new(wire::RevokeTokenResponse {
            token: Some(wire_token(&hash, &token)),
        }))
    }

    async fn identify_token(
        &self,
        request: Request<wire::IdentifyTokenRequest>,
    ) -> Result<Response<wire::IdentifyTokenResponse>, Status> {
        let sent = request.into_inner().token_sha256;
        let hash = TokenHash::try_from(&*sent)
            .map_err(|err| Status::from(InvalidField::new("token_sha256", err)))?;
        let caller = self.book.identify(&hash, self.clock.now());
        let caller = caller.ok_or_else(|| Status::not_found("there is no such token"))?;
        let (role, user) = wire_caller(&caller);
        Ok(Response::new(wire::IdentifyTokenResponse {
            role: role.into(),
            user,
        }))
    }

    async fn get_s3_credentials(
        &self,
        request: Request<wire::GetS3CredentialsRequest>,
    ) -> Result<Response<wire::GetS3CredentialsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let user: UserName = parse("user", &message.user)?;
        caller.check_owner(&user)?;
        let Some(secrets) = &self.s3 else {
            return Err(Status::failed_precondition(
                "the object store is not the embedded one (hint: make users' keys there)",
            ));
        };
        self.check_user(&user).await?;
        let owner = user.clone();
        let number = self
            .change(move |book| Ok(book.make_s3_key(&owner, message.renew)?))
            .await?;
        let key = AccessKey { user, number };
        info!(access_key = %key, renewed = message.renew, "S3 key told");
        Ok(Response::new(wire::GetS3CredentialsResponse {
            secret_key: secrets.secret(&key).expose().to_owned(),
            access_key: key.to_string(),
        }))
    }

    async fn resolve_s3_key(
        &self,
        request: Request<wire::ResolveS3KeyRequest>,
    ) -> Result<Response<wire::ResolveS3KeyResponse>, Status> {
        let key = AccessKey::parse(&request.into_inner().access_key);
        let in_force = key.filter(|key| self.book.s3_key(&key.user) == key.number);
        let key = in_force.ok_or_else(|| Status::not_found("the access key opens nothing"))?;
        let user = key.user.clone();
        let buckets = self
            .writer
            .call(move |desk| Ok(desk.bank.buckets(&user)))
            .await
            .map_err(|err| from_command(&err))?;
        Ok(Response::new(wire::ResolveS3KeyResponse {
            user: key.user.to_string(),
            buckets: buckets.into_iter().map(String::from).collect(),
        }))
    }
}

/// Whose a new token is to be.
fn holder(message: &wire::CreateTokenRequest) -> Result<Caller, InvalidField> {
    let user: Option<UserName> = optional("user", &message.user)?;
    match (message.role(), user) {
        (wire::Role::Operator, None) => Ok(Caller::Operator),
        (wire::Role::Auditor, None) => Ok(Caller::Auditor),
        (wire::Role::User, Some(user)) => Ok(Caller::User(user)),
        (wire::Role::User, None) => Err(InvalidField::new("user", "is not set")),
        (_, Some(_)) => Err(InvalidField::new(
            "user",
            "is set, and the role is not that of a user",
        )),
        (wire::Role::Node, None) => Err(InvalidField::new(
            "role",
            "is node (hint: nodes have certificates: `gridfaas pki init --node NAME`)",
        )),
        (wire::Role::Unspecified, None) => Err(InvalidField::new("role", "is not set")),
    }
}

fn wire_caller(caller: &Caller) -> (wire::Role, String) {
    match caller {
        Caller::Operator => (wire::Role::Operator, String::new()),
        Caller::Auditor => (wire::Role::Auditor, String::new()),
        Caller::User(user) => (wire::Role::User, user.to_string()),
        Caller::Node(_) => (wire::Role::Node, String::new()),
        Caller::Anyone => (wire::Role::Unspecified, String::new()),
    }
}

fn wire_token(hash: &TokenHash, token: &Token) -> wire::Token {
    let (role, user) = wire_caller(&token.caller);
    wire::Token {
        token_id: hash.id(),
        role: role.into(),
        user,
        label: token.label.clone(),
        created_at_ms: token.created_at.unix_ms(),
        expires_at_ms: token.expires_at.unix_ms(),
    }
}
