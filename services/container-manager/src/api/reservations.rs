//! Reservations over gRPC.

use std::time::Duration;

use access::Caller;
use proto::container::v1 as wire;
use proto::parse;
use service_kit::Chain;
use tonic::{Request, Response, Status};
use units::{MilliCores, Standing, UserName};

use super::Api;
use crate::credit::CreditError;
use crate::reservation::{Reservation, ReservationError, Resources, Wanted};

impl Api {
    pub(super) async fn reserve(
        &self,
        request: Request<wire::ReserveCapacityRequest>,
    ) -> Result<Response<wire::ReserveCapacityResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let asked = match request.user.as_str() {
            "" => None,
            name => Some(parse::<UserName>("user", name)?),
        };
        let owner = caller
            .narrow(asked)?
            .ok_or_else(|| Status::invalid_argument("`user` is missing: a reservation has an owner"))?;
        self.check_funds(&owner).await?;
        let wanted = Wanted {
            owner,
            key: request.key,
            resources: Resources {
                cpu: MilliCores::from_millicores(request.millicores),
                memory_mib: request.memory_mib,
                disk_mib: request.disk_mib,
            },
            ttl: Duration::from_millis(request.ttl_ms),
        };
        let node = self.node.clone();
        let reserved = on_disk(move || node.reserve(wanted)).await?;
        Ok(Response::new(wire::ReserveCapacityResponse {
            reservation: Some(wire_reservation(reserved)),
        }))
    }

    pub(super) async fn release(
        &self,
        request: Request<wire::ReleaseReservationRequest>,
    ) -> Result<Response<wire::ReleaseReservationResponse>, Status> {
        let caller = Caller::of(&request)?;
        let id = parse("reservation_id", &request.into_inner().reservation_id)?;
        let known = self.node.reservations.list(None).into_iter();
        let known = known.into_iter().find(|known| known.id == id);
        let owner = known
            .map(|known| known.owner)
            .ok_or_else(|| status(&ReservationError::Unknown { id }))?;
        caller.check_owner(&owner)?;
        let node = self.node.clone();
        on_disk(move || node.release(id, &owner)).await?;
        Ok(Response::new(wire::ReleaseReservationResponse {}))
    }

    pub(super) fn reservations(
        &self,
        request: &Request<wire::ListReservationsRequest>,
    ) -> Result<Response<wire::ListReservationsResponse>, Status> {
        let owner = Caller::of(request)?.narrow(None)?;
        let reservations = self.node.reservations.list(owner.as_ref());
        Ok(Response::new(wire::ListReservationsResponse {
            reservations: reservations.into_iter().map(wire_reservation).collect(),
        }))
    }

    /// Nothing is kept free for who could not start anything on it.
    async fn check_funds(&self, owner: &UserName) -> Result<(), Status> {
        let account = self.node.credit.account(owner).await.map_err(|err| {
            let message = Chain(&err).to_string();
            match err {
                CreditError::Unreachable { .. } => Status::unavailable(message),
                CreditError::Refused { .. } => Status::not_found(message),
                CreditError::Nonsense(_) => Status::internal(message),
            }
        })?;
        match account.standing {
            Standing::Good | Standing::Low => Ok(()),
            Standing::InDebt | Standing::Exhausted => Err(Status::failed_precondition(format!(
                "{owner} is out of funds (hint: send a deposit first)"
            ))),
        }
    }
}

/// Does what waits for the disk.
async fn on_disk<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, ReservationError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(act).await;
    done.map_err(|err| Status::internal(err.to_string()))?
        .map_err(|err| status(&err))
}

fn status(err: &ReservationError) -> Status {
    let message = Chain(err).to_string();
    match err {
        ReservationError::NoRoom { .. } | ReservationError::TooMany { .. } => {
            Status::resource_exhausted(message)
        }
        ReservationError::KeyReused { .. } => Status::already_exists(message),
        ReservationError::Malformed { .. } => Status::invalid_argument(message),
        ReservationError::Unknown { .. } => Status::not_found(message),
        ReservationError::Foreign { .. } => Status::permission_denied(message),
        ReservationError::File { .. } => Status::internal(message),
    }
}

fn wire_reservation(reservation: Reservation) -> wire::Reservation {
    wire::Reservation {
        reservation_id: reservation.id.to_string(),
        user: reservation.owner.to_string(),
        key: reservation.key,
        millicores: reservation.resources.cpu.millicores(),
        memory_mib: reservation.resources.memory_mib,
        disk_mib: reservation.resources.disk_mib,
        expires_at_ms: reservation.expires_at.unix_ms(),
    }
}
