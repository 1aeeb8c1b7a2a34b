//! What a certificate says its holder is, in a URI of its alternative names: `gridfaas://node/node-1`.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use units::NodeId;
use webpki::EndEntityCert;

const SCHEME: &str = "gridfaas://";

/// A service with a certificate of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    CreditManager,
    Node(NodeId),
}

#[derive(Debug, thiserror::Error)]
#[error("`{0}` names no service")]
pub struct InvalidIdentity(String);

impl Identity {
    /// Of a certificate that has been verified; `None` if it is for something else.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        certificate.valid_uri_names().find_map(|uri| uri.parse().ok())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreditManager => write!(f, "{SCHEME}credit-manager"),
            Self::Node(node) => write!(f, "{SCHEME}node/{node}"),
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(uri: &str) -> Result<Self, InvalidIdentity> {
        let invalid = || InvalidIdentity(uri.to_owned());
        match uri.strip_prefix(SCHEME).ok_or_else(invalid)?.split_once('/') {
            None if uri.ends_with("//credit-manager") => Ok(Self::CreditManager),
            Some(("node", node)) => node.parse().map(Self::Node).map_err(|_| invalid()),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_is_written_and_nothing_else_is() {
        for identity in [Identity::CreditManager, Identity::Node("node-1".parse().unwrap())] {
            assert_eq!(identity.to_string().parse::<Identity>().unwrap(), identity);
        }
        for uri in [
            "",
            "gridfaas://",
            "gridfaas://node",
            "gridfaas://node/",
            "gridfaas://node/a/b",
            "gridfaas://operator",
            "gridfaas://credit-manager/x",
            "https://node/node-1",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri}");
        }
    }
}
