//! What a failed call means: was it carried out, and who can mend it?

use hyper_util::client::legacy::Error as ConnectionError;
use jsonrpsee::core::BoxError;
use jsonrpsee::core::client::Error as ClientError;
use jsonrpsee::core::http_helpers::HttpError;
use jsonrpsee::http_client::transport::Error as TransportError;

use crate::settlement::wallet::WalletError;

pub(super) fn classify(url: &str, method: &'static str, err: ClientError) -> WalletError {
    match err {
        ClientError::Call(refusal) => refused(method, refusal.code(), refusal.message()),
        ClientError::Transport(err) => transport(url, method, err),
        ClientError::ParseError(_) | ClientError::InvalidRequestId(_) => WalletError::Nonsense {
            method,
            problem: err.to_string(),
        },
        // A timeout above all.
        err => WalletError::Unclear {
            method,
            err: err.into(),
        },
    }
}

fn refused(method: &'static str, code: i32, message: &str) -> WalletError {
    if message.contains("enableaccounts=1") {
        let hint = "add enableaccounts=1 and staking=0 to gridcoinresearch.conf";
        return WalletError::AccountsOff { hint };
    }
    if message.contains("staking=0") {
        let hint = "add staking=0 to gridcoinresearch.conf";
        return WalletError::AccountsOff { hint };
    }
    WalletError::Refused {
        method,
        code,
        message: message.to_owned(),
    }
}

fn transport(url: &str, method: &'static str, err: BoxError) -> WalletError {
    match err.downcast_ref() {
        Some(TransportError::Rejected { status_code: 401 }) => {
            WalletError::Unauthorised { url: url.to_owned() }
        }
        Some(TransportError::Rejected { status_code: 404 }) => WalletError::Nonsense {
            method,
            problem: format!("{url} was not found (hint: the daemon's url has no path)"),
        },
        Some(TransportError::Http(HttpError::Stream(cause))) if was_never_sent(cause) => {
            WalletError::Unreachable {
                url: url.to_owned(),
                err,
            }
        }
        _ => WalletError::Unclear { method, err },
    }
}

/// Only a connection that was never made proves that the daemon did not get the call.
fn was_never_sent(cause: &BoxError) -> bool {
    cause.downcast_ref().is_some_and(ConnectionError::is_connect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_names_a_setting_becomes_a_hint() {
        let hint = |message| refused("move", -1, message).to_string();
        assert!(
            hint("If you still want to enable it, add to your config file enableaccounts=1\n")
                .contains("staking=0 to")
        );
        assert!(hint("staking must be disabled, add to your config file staking=0\n").contains("staking=0"));
        assert!(matches!(
            refused("move", -3, "Invalid amount"),
            WalletError::Refused {
                method: "move",
                code: -3,
                ..
            }
        ));
    }

    #[test]
    fn only_what_never_left_is_clear() {
        let of = |err| classify("http://h/", "move", err);
        assert!(of(ClientError::RequestTimeout).is_unclear());
        let rejected = |status_code| {
            of(ClientError::Transport(
                TransportError::Rejected { status_code }.into(),
            ))
            .is_unclear()
        };
        assert_eq!((rejected(401), rejected(500), rejected(502)), (false, true, true));
    }
}
