//! gRPC. Generated types stay in here, and errors become status codes in [`status`] only.

mod access;
mod accounts;
mod ledger;
mod sessions;
mod status;

pub use access::{AccessApi, LocalAuthority};
pub use accounts::AccountApi;
pub use ledger::LedgerApi;
pub use sessions::SessionApi;

use proto::credit::v1 as wire;

use crate::session::{Outcome, SessionState};

fn wire_state(state: &SessionState) -> wire::SessionState {
    wire::SessionState {
        session_id: state.id.to_string(),
        standing: wire::Standing::from(state.standing).into(),
        restriction: wire::Restriction::from(state.restriction).into(),
        may_start: state.may_start,
        grant: Some(state.grant.into()),
        balance_halfords: state.balance.halfords(),
        revision: state.revision,
        ceiling_millicores: state.ceiling.map(units::MilliCores::millicores),
        dismissed: state.dismissed,
    }
}

fn wire_outcome(outcome: Outcome) -> wire::Outcome {
    match outcome {
        Outcome::Succeeded => wire::Outcome::Succeeded,
        Outcome::Failed => wire::Outcome::Failed,
        Outcome::GaveUp => wire::Outcome::GaveUp,
        Outcome::Aborted => wire::Outcome::Aborted,
        Outcome::Cancelled => wire::Outcome::Cancelled,
        Outcome::CapSpent => wire::Outcome::CapSpent,
        // A lost node is our fault like any other.
        Outcome::PlatformFault | Outcome::Lost => wire::Outcome::PlatformFault,
    }
}
