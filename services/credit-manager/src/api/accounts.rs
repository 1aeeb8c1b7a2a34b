//! People's side: users, functions, history, audit.

use std::sync::Arc;
use std::time::Duration;

use access::Caller;
use proto::credit::v1 as wire;
use proto::credit::v1::account_service_server::AccountService;
use proto::{InvalidField, parse};
use service_kit::Clock;
use tonic::{Request, Response, Status};
use tracing::info;
use units::{Amount, Billing, CpuPrice, CpuTime, FunctionName, OnShortage, Policy, UserName};

use super::status::{from_audit, from_command, from_read, from_wallet, from_withdraw};
use super::wire_outcome;
use crate::bank::{BankError, Sum, UserView, WithdrawalOrder};
use crate::ledger::reader::SessionRecord;
use crate::ledger::{Reader, Transfer, TransferId};
use crate::quote::{self, Estimate};
use crate::settlement::audit::Auditor;
use crate::settlement::outbox::{Payout, PayoutState};
use crate::settlement::wallet::{Route, Wallet};
use crate::settlement::withdrawal::{self, Withdrawals};
use crate::users::{Function, Settings, SettingsPatch, User};
use crate::writer::{CommandError, Desk, Writer};

/// Rows of a list that was asked for without a limit.
const LIMIT: u32 = 100;
/// Rows of any list: a message holds them easily.
const LIMIT_MAX: u32 = 10_000;
/// The journal and every product with a price hold it.
const RUNWAY_SECS_MAX: u64 = 100 * 366 * 24 * 3600;

pub struct AccountApi {
    pub writer: Writer,
    pub reader: Reader,
    pub wallet: Arc<dyn Wallet>,
    pub clock: Arc<dyn Clock>,
    pub auditor: Auditor,
    pub withdrawals: Withdrawals,
    /// Of new users.
    pub settings: Settings,
}

impl AccountApi {
    async fn call<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Desk) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, Status> {
        self.writer.call(command).await.map_err(|err| from_command(&err))
    }
}

#[tonic::async_trait]
impl AccountService for AccountApi {
    async fn create_user(
        &self,
        request: Request<wire::CreateUserRequest>,
    ) -> Result<Response<wire::CreateUserResponse>, Status> {
        let name: UserName = parse("name", &request.into_inner().name)?;
        let taken = name.clone();
        self.call(move |desk| match desk.bank.has_user(&taken) {
            true => Err(BankError::UserExists(taken).into()),
            false => Ok(()),
        })
        .await?;
        // Asked before anything is written: the wallet gives the same user the same address again.
        let address = self
            .wallet
            .deposit_address(&name)
            .await
            .map_err(|err| from_wallet(&err))?;
        let user = User {
            name,
            address,
            settings: self.settings.clone(),
            created_at: self.clock.now(),
        };
        let view = self.call(move |desk| Ok(desk.bank.create_user(user)?)).await?;
        info!(user = %view.user.name, address = %view.user.address, "user created");
        Ok(Response::new(wire::CreateUserResponse {
            user: Some(wire_user(&view)),
        }))
    }

    async fn get_user(
        &self,
        request: Request<wire::GetUserRequest>,
    ) -> Result<Response<wire::GetUserResponse>, Status> {
        let caller = Caller::of(&request)?;
        let name: UserName = parse("name", &request.into_inner().name)?;
        caller.check_owner(&name)?;
        let view = self.call(move |desk| Ok(desk.bank.view(&name)?)).await?;
        Ok(Response::new(wire::GetUserResponse {
            user: Some(wire_user(&view)),
        }))
    }

    async fn list_users(
        &self,
        _request: Request<wire::ListUsersRequest>,
    ) -> Result<Response<wire::ListUsersResponse>, Status> {
        let views = self.call(|desk| Ok(desk.bank.views())).await?;
        Ok(Response::new(wire::ListUsersResponse {
            users: views.iter().map(wire_user).collect(),
        }))
    }

    async fn update_user(
        &self,
        request: Request<wire::UpdateUserRequest>,
    ) -> Result<Response<wire::UpdateUserResponse>, Status> {
        let message = request.into_inner();
        let name: UserName = parse("name", &message.name)?;
        let patch = settings_patch(&message)?;
        let view = self
            .call(move |desk| Ok(desk.bank.update_user(&name, &patch)?))
            .await?;
        info!(user = %view.user.name, "user updated");
        Ok(Response::new(wire::UpdateUserResponse {
            user: Some(wire_user(&view)),
        }))
    }

    async fn create_function(
        &self,
        request: Request<wire::CreateFunctionRequest>,
    ) -> Result<Response<wire::CreateFunctionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let name: FunctionName = parse("name", &message.name)?;
        let user: UserName = parse("user", &message.user)?;
        caller.check_owner(&user)?;
        let (function, view) = self
            .call(move |desk| {
                let function = desk.bank.create_function(name, &user)?;
                Ok((function, desk.bank.view(&user)?))
            })
            .await?;
        Ok(Response::new(wire::CreateFunctionResponse {
            function: Some(wire_function(&function, &view)),
        }))
    }

    async fn update_function(
        &self,
        request: Request<wire::UpdateFunctionRequest>,
    ) -> Result<Response<wire::UpdateFunctionResponse>, Status> {
        let message = request.into_inner();
        let name: FunctionName = parse("name", &message.name)?;
        let max_spend = limit_an_hour(message.max_spend_halfords_per_hour)?;
        let (function, view) = self
            .call(move |desk| {
                let function = match max_spend {
                    Some(max_spend) => desk.bank.limit_function(&name, max_spend)?,
                    None => desk.bank.function(&name)?.clone(),
                };
                let view = desk.bank.view(&function.user)?;
                Ok((function, view))
            })
            .await?;
        info!(function = %function.name, "function updated");
        Ok(Response::new(wire::UpdateFunctionResponse {
            function: Some(wire_function(&function, &view)),
        }))
    }

    async fn delete_function(
        &self,
        request: Request<wire::DeleteFunctionRequest>,
    ) -> Result<Response<wire::DeleteFunctionResponse>, Status> {
        let caller = Caller::of(&request)?;
        let name: FunctionName = parse("name", &request.into_inner().name)?;
        let wanted = name.clone();
        let function = self
            .call(move |desk| Ok(desk.bank.function(&wanted)?.clone()))
            .await?;
        caller.check_owner(&function.user)?;
        self.call(move |desk| Ok(desk.bank.delete_function(&function.name)?))
            .await?;
        info!(function = %name, "function deleted");
        Ok(Response::new(wire::DeleteFunctionResponse {}))
    }

    async fn list_functions(
        &self,
        request: Request<wire::ListFunctionsRequest>,
    ) -> Result<Response<wire::ListFunctionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let user: Option<UserName> = caller.narrow(optional("user", &request.into_inner().user)?)?;
        let functions = self
            .call(move |desk| {
                if let Some(user) = &user {
                    desk.bank.view(user)?;
                }
                let functions = desk.bank.functions(user.as_ref()).into_iter();
                let seen = functions.map(|function| {
                    let view = desk.bank.view(&function.user)?;
                    Ok((function, view))
                });
                seen.collect::<Result<Vec<_>, CommandError>>()
            })
            .await?;
        Ok(Response::new(wire::ListFunctionsResponse {
            functions: functions
                .iter()
                .map(|(function, view)| wire_function(function, view))
                .collect(),
        }))
    }

    async fn list_transfers(
        &self,
        request: Request<wire::ListTransfersRequest>,
    ) -> Result<Response<wire::ListTransfersResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let user = caller.narrow(optional("user", &message.user)?)?;
        let transfers = self
            .reader
            .transfers(user, limit(message.limit))
            .await
            .map_err(|err| from_read(&err))?;
        Ok(Response::new(wire::ListTransfersResponse {
            transfers: transfers.iter().map(wire_transfer).collect(),
        }))
    }

    async fn list_sessions(
        &self,
        request: Request<wire::ListSessionsRequest>,
    ) -> Result<Response<wire::ListSessionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let (user, function) = (
            caller.narrow(optional("user", &message.user)?)?,
            optional("function", &message.function)?,
        );
        let sessions = self
            .reader
            .sessions(user, function, limit(message.limit))
            .await
            .map_err(|err| from_read(&err))?;
        Ok(Response::new(wire::ListSessionsResponse {
            sessions: sessions.iter().map(wire_session).collect(),
        }))
    }

    async fn quote(
        &self,
        request: Request<wire::QuoteRequest>,
    ) -> Result<Response<wire::QuoteResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let function: FunctionName = parse("function", &message.function)?;
        let name = function.clone();
        let user = self.call(move |desk| Ok(desk.bank.payer(&name)?)).await?.user;
        caller.check_owner(&user.name)?;
        let history = self
            .reader
            .samples(function, user.settings.billing, quote::HISTORY)
            .await
            .map_err(|err| from_read(&err))?;
        let price = user.settings.price;
        Ok(Response::new(wire::QuoteResponse {
            function: message.function,
            user: user.name.to_string(),
            input_bytes: message.input_bytes,
            cpu_time_us_per_grc: price.cpu_time_per_grc().micros(),
            estimate: quote::estimate(&history, message.input_bytes)
                .map(|found| wire_estimate(&found, price)),
        }))
    }

    async fn withdraw(
        &self,
        request: Request<wire::WithdrawRequest>,
    ) -> Result<Response<wire::WithdrawResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let amount = Amount::from_halfords(message.amount_halfords);
        if amount.is_negative() {
            return Err(InvalidField::new("amount_halfords", "is negative").into());
        }
        let order = WithdrawalOrder {
            id: withdrawal::payment_id(parse("withdrawal_id", &message.withdrawal_id)?),
            user: parse("user", &message.user)?,
            to: parse("address", &message.address)?,
            sum: if amount == Amount::ZERO {
                Sum::All
            } else {
                Sum::Exactly(amount)
            },
        };
        caller.check_owner(&order.user)?;
        let payout = self.withdrawals.order(order).await;
        Ok(Response::new(wire::WithdrawResponse {
            withdrawal: Some(wire_withdrawal(&payout.map_err(|err| from_withdraw(&err))?)),
        }))
    }

    async fn get_withdrawal(
        &self,
        request: Request<wire::GetWithdrawalRequest>,
    ) -> Result<Response<wire::GetWithdrawalResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = request.into_inner().withdrawal_id;
        let payment = withdrawal::payment_id(parse("withdrawal_id", &id)?);
        let payout = self.call(move |desk| desk.payout(&payment)).await?;
        let payout = payout.ok_or_else(|| Status::not_found(format!("there is no withdrawal `{id}`")))?;
        if let Some(user) = payout.purpose.user() {
            caller.check_owner(user)?;
        }
        Ok(Response::new(wire::GetWithdrawalResponse {
            withdrawal: Some(wire_withdrawal(&payout)),
        }))
    }

    async fn list_withdrawals(
        &self,
        request: Request<wire::ListWithdrawalsRequest>,
    ) -> Result<Response<wire::ListWithdrawalsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let user: UserName = parse("user", &message.user)?;
        caller.check_owner(&user)?;
        let known = user.clone();
        self.call(move |desk| Ok(desk.bank.view(&known)?)).await?;
        let payouts = self
            .reader
            .withdrawals(user, limit(message.limit))
            .await
            .map_err(|err| from_read(&err))?;
        Ok(Response::new(wire::ListWithdrawalsResponse {
            withdrawals: payouts.iter().map(wire_withdrawal).collect(),
        }))
    }

    async fn audit(
        &self,
        _request: Request<wire::AuditRequest>,
    ) -> Result<Response<wire::AuditResponse>, Status> {
        let checks = self.auditor.audit().await.map_err(|err| from_audit(&err))?;
        Ok(Response::new(wire::AuditResponse {
            ok: checks.iter().all(|check| check.ok),
            checks: checks
                .into_iter()
                .map(|check| wire::AuditCheck {
                    name: check.name.to_owned(),
                    ok: check.ok,
                    detail: check.detail,
                })
                .collect(),
        }))
    }
}

fn settings_patch(message: &wire::UpdateUserRequest) -> Result<SettingsPatch, InvalidField> {
    let debt_limit = message.debt_limit_halfords.map(Amount::from_halfords);
    if debt_limit.is_some_and(Amount::is_negative) {
        let problem = "is negative (hint: a debt limit of 2 GRC lets the balance go down to -2 GRC)";
        return Err(InvalidField::new("debt_limit_halfords", problem));
    }
    let price = message
        .cpu_time_us_per_grc
        .map(|micros| match i64::try_from(micros) {
            Ok(_) => CpuPrice::from_cpu_time_per_grc(CpuTime::from_micros(micros))
                .map_err(|err| InvalidField::new("cpu_time_us_per_grc", err)),
            Err(_) => Err(InvalidField::new(
                "cpu_time_us_per_grc",
                "is longer than any counter",
            )),
        });
    let policy = message.policy.map(|_| Policy::try_from(message.policy()));
    let on_shortage = message
        .on_shortage
        .map(|_| OnShortage::try_from(message.on_shortage()));
    if message.min_runway_s.is_some_and(|secs| secs > RUNWAY_SECS_MAX) {
        let problem = format!("is more than a hundred years ({RUNWAY_SECS_MAX} s)");
        return Err(InvalidField::new("min_runway_s", problem));
    }
    let webhook = message
        .alert_webhook
        .as_deref()
        .map(|text| optional("alert_webhook", text));
    let billing = message.billing.map(|_| Billing::try_from(message.billing()));
    Ok(SettingsPatch {
        min_balance: message.min_balance_halfords.map(Amount::from_halfords),
        debt_limit,
        policy: policy.transpose()?,
        billing: billing.transpose()?,
        price: price.transpose()?,
        accounting: message.accounting,
        min_runway: message.min_runway_s.map(Duration::from_secs),
        on_shortage: on_shortage.transpose()?,
        max_spend: limit_an_hour(message.max_spend_halfords_per_hour)?,
        alert_at: message.alert_at_halfords.map(Amount::from_halfords),
        alert_webhook: webhook.transpose()?,
    })
}

fn wire_estimate(found: &Estimate, price: CpuPrice) -> wire::QuoteEstimate {
    let cost = |total| price.cost(total).unwrap_or(Amount::MAX).halfords();
    wire::QuoteEstimate {
        samples: found.samples,
        input_bytes_min: found.input_bytes_min,
        input_bytes_max: found.input_bytes_max,
        p50_cpu_time_us: found.p50.micros(),
        p90_cpu_time_us: found.p90.micros(),
        p50_amount_halfords: cost(found.p50),
        p90_amount_halfords: cost(found.p90),
    }
}

/// A limit to set, where 0 takes it away.
fn limit_an_hour(halfords: Option<i64>) -> Result<Option<Option<Amount>>, InvalidField> {
    let limit = halfords.map(Amount::from_halfords);
    if limit.is_some_and(Amount::is_negative) {
        let problem = "is negative (hint: 0 takes the limit away)";
        return Err(InvalidField::new("max_spend_halfords_per_hour", problem));
    }
    Ok(limit.map(|limit| Some(limit).filter(|limit| limit.is_positive())))
}

/// A name, or none where the text is empty.
pub(super) fn optional<T>(field: &'static str, text: &str) -> Result<Option<T>, InvalidField>
where
    T: std::str::FromStr<Err: ToString>,
{
    if text.is_empty() {
        Ok(None)
    } else {
        parse(field, text).map(Some)
    }
}

fn limit(asked: u32) -> u32 {
    if asked == 0 { LIMIT } else { asked.min(LIMIT_MAX) }
}

fn wire_user(view: &UserView) -> wire::User {
    let settings = &view.user.settings;
    wire::User {
        name: view.user.name.to_string(),
        deposit_address: view.user.address.to_string(),
        balance_halfords: view.balance.halfords(),
        pending_deposit_halfords: view.pending.halfords(),
        granted_halfords: view.granted.halfords(),
        standing: wire::Standing::from(view.standing).into(),
        min_balance_halfords: settings.min_balance.halfords(),
        debt_limit_halfords: settings.debt_limit.halfords(),
        policy: wire::Policy::from(settings.policy).into(),
        billing: wire::Billing::from(settings.billing).into(),
        cpu_time_us_per_grc: settings.price.cpu_time_per_grc().micros(),
        accounting: settings.accounting,
        millicores: view.capacity.millicores(),
        live_sessions: u32::try_from(view.live_sessions).unwrap_or(u32::MAX),
        min_runway_s: settings.min_runway.as_secs(),
        on_shortage: wire::OnShortage::from(settings.on_shortage).into(),
        max_spend_halfords_per_hour: settings.max_spend.map(Amount::halfords),
        burn_halfords_per_hour: view.burn.halfords(),
        alert_at_halfords: settings.alert_threshold().halfords(),
        alert_webhook: settings
            .alert_webhook
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        runway_ms: view
            .runway()
            .map(|runway| u64::try_from(runway.as_millis()).unwrap_or(u64::MAX)),
    }
}

fn wire_function(function: &Function, view: &UserView) -> wire::Function {
    wire::Function {
        name: function.name.to_string(),
        max_spend_halfords_per_hour: function.max_spend.map(Amount::halfords),
        alert: view.alert.as_ref().map(|alert| wire::Alert {
            id: alert.id(&view.user.name),
            threshold_halfords: alert.threshold.halfords(),
            balance_halfords: alert.balance.halfords(),
            raised_at_ms: alert.raised_at.unix_ms(),
        }),
        user: view.user.name.to_string(),
        may_start: view.refusal.is_none(),
        refusal: view.refusal.clone().unwrap_or_default(),
    }
}

pub(super) fn wire_transfer(transfer: &Transfer) -> wire::Transfer {
    wire::Transfer {
        id: transfer.id.to_string(),
        debit_account: transfer.debit.to_string(),
        credit_account: transfer.credit.to_string(),
        amount_halfords: transfer.amount.halfords(),
        kind: transfer.kind.as_str().to_owned(),
        reference: transfer.reference.clone(),
        posted_at_ms: transfer.posted_at.unix_ms(),
        reverses: transfer
            .reverses
            .as_ref()
            .map(TransferId::to_string)
            .unwrap_or_default(),
    }
}

fn wire_withdrawal(payout: &Payout) -> wire::Withdrawal {
    let address = match &payout.payment.route {
        Route::Send { to, .. } => to.to_string(),
        Route::Move { .. } => String::new(),
    };
    let receipt = payout.state.receipt();
    let state = match payout.state {
        PayoutState::Unsent | PayoutState::InFlight | PayoutState::Unclear => wire::WithdrawalState::UnderWay,
        PayoutState::Done(_) => wire::WithdrawalState::Done,
        PayoutState::Failed(_) => wire::WithdrawalState::Failed,
    };
    wire::Withdrawal {
        withdrawal_id: withdrawal::caller_id(&payout.payment.id).to_owned(),
        user: payout.purpose.user().map(UserName::to_string).unwrap_or_default(),
        address,
        amount_halfords: payout.payment.amount.halfords(),
        fee_halfords: receipt.map_or(0, |receipt| receipt.fee.halfords()),
        state: state.into(),
        txid: receipt
            .and_then(|receipt| receipt.txid.clone())
            .unwrap_or_default(),
        failure: payout.state.failure().cloned().unwrap_or_default(),
        created_at_ms: payout.created_at.unix_ms(),
        changed_at_ms: payout.changed_at.unix_ms(),
    }
}

fn wire_session(session: &SessionRecord) -> wire::Session {
    let (closed_at, outcome) = session.closed.unzip();
    wire::Session {
        session_id: session.id.to_string(),
        task_id: session.task.to_string(),
        user: session.user.to_string(),
        function: session.function.to_string(),
        object_key: session.key.clone(),
        node_id: session.node.to_string(),
        attempt: session.attempt,
        cpu_time_us: session.total.micros(),
        amount_halfords: session.amount.halfords(),
        opened_at_ms: session.opened_at.unix_ms(),
        closed_at_ms: closed_at.map_or(0, units::Timestamp::unix_ms),
        outcome: outcome.map_or(wire::Outcome::Unspecified, wire_outcome).into(),
        cpu_time_us_per_grc: session.price.cpu_time_per_grc().micros(),
    }
}
