//! Where the services of a stack listen: on this machine only.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

/// The port of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This one; 0 for any that is free.
    Exactly(u16),
    /// This one, or any that is free if it is taken.
    Preferably(u16),
}

/// The ports of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub s3: Port,
    /// gRPC of container-manager.
    pub container: Port,
    /// gRPC of credit-manager.
    pub credit: Port,
    /// JSON-RPC of the development chain.
    pub chain: Port,
    /// The dashboard's HTTP.
    pub dashboard: Port,
    /// What the node tells of itself over HTTP.
    pub node: Port,
}

impl Ports {
    /// Wherever there is room: for tests.
    pub const ANY: Self = Self {
        s3: Port::Exactly(0),
        container: Port::Exactly(0),
        credit: Port::Exactly(0),
        chain: Port::Exactly(0),
        dashboard: Port::Exactly(0),
        node: Port::Exactly(0),
    };
}

/// The same after every start as long as nobody else took them, so that clients can keep their configuration.
impl Default for Ports {
    fn default() -> Self {
        Self {
            s3: Port::Preferably(9000),
            container: Port::Preferably(7403),
            credit: Port::Preferably(7402),
            chain: Port::Preferably(7401),
            dashboard: Port::Preferably(7404),
            node: Port::Preferably(7407),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "failed to listen on {address} (hint: another program may use the port; choose another, or 0 for any)"
)]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    err: io::Error,
}

impl Port {
    /// Listens on the loopback interface.
    pub async fn listen(self) -> Result<TcpListener, ListenError> {
        match self {
            Self::Exactly(port) => bind(port).await,
            Self::Preferably(port) => match bind(port).await {
                Err(err) if err.err.kind() == io::ErrorKind::AddrInUse => bind(0).await,
                result => result,
            },
        }
    }
}

async fn bind(port: u16) -> Result<TcpListener, ListenError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address)
        .await
        .map_err(|err| ListenError { address, err })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_refused_or_evaded_as_asked() {
        let taken = Port::Exactly(0).listen().await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let err = Port::Exactly(port).listen().await.unwrap_err();
        assert!(err.to_string().contains(&port.to_string()), "{err}");
        let other = Port::Preferably(port).listen().await.unwrap();
        assert_ne!(other.local_addr().unwrap().port(), port);
    }
}
