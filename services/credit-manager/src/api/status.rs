//! Errors as gRPC status codes.

use service_kit::Chain;
use tonic::{Code, Status};
use tracing::error;

use crate::bank::BankError;
use crate::ledger::reader::ReadError;
use crate::settlement::audit::AuditError;
use crate::settlement::wallet::WalletError;
use crate::settlement::withdrawal::WithdrawError;
use crate::writer::CommandError;

/// An error with all its causes, as a status of this code.
fn status(code: Code, err: &(dyn std::error::Error + 'static)) -> Status {
    Status::new(code, Chain(err).to_string())
}

pub(super) fn from_command(err: &CommandError) -> Status {
    let code = match err {
        CommandError::Bank(err) => bank_code(err),
        CommandError::Journal(_) | CommandError::Stopped => Code::Unavailable,
    };
    status(code, err)
}

fn bank_code(err: &BankError) -> Code {
    match err {
        BankError::UnknownUser { .. }
        | BankError::UnknownFunction(_)
        | BankError::UnknownSession(_)
        | BankError::UnknownPayment(_) => Code::NotFound,
        BankError::UserExists(_) | BankError::FunctionTaken { .. } => Code::AlreadyExists,
        BankError::OpenedDifferently(_)
        | BankError::AlreadyClosed { .. }
        | BankError::FunctionRuns(_)
        | BankError::NotFree { .. } => Code::FailedPrecondition,
        BankError::Total { .. } | BankError::LimitTooLow { .. } => Code::InvalidArgument,
        BankError::AddressTaken(_) | BankError::Overflow(_) => Code::Internal,
    }
}

pub(super) fn from_read(err: &ReadError) -> Status {
    error!(error = %Chain(err), "the ledger cannot be read");
    status(Code::Unavailable, err)
}

pub(super) fn from_audit(err: &AuditError) -> Status {
    match err {
        AuditError::Read(err) => from_read(err),
        AuditError::Ledger(err) => from_command(err),
    }
}

pub(super) fn from_wallet(err: &WalletError) -> Status {
    status(Code::Unavailable, err)
}

pub(super) fn from_withdraw(err: &WithdrawError) -> Status {
    match err {
        WithdrawError::BadAddress(_) | WithdrawError::OwnAddress(_) => status(Code::InvalidArgument, err),
        WithdrawError::AskedDifferently(_) | WithdrawError::Wallet(WalletError::Locked) => {
            status(Code::FailedPrecondition, err)
        }
        WithdrawError::Wallet(err) => from_wallet(err),
        WithdrawError::Ledger(err) => from_command(err),
    }
}
