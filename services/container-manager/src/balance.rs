//! What a user reads in `status/balance.json` and `status/alert.json`. Pure.

use serde_json::json;
use units::{Timestamp, UserName};

use crate::credit::{Account, Alert};

/// The account, what running work on all nodes costs, and how long the balance lasts at that.
pub fn document(user: &UserName, account: &Account, now: Timestamp) -> String {
    let document = json!({
        "user": user,
        "balance_grc": account.balance,
        "standing": account.standing,
        "burning_grc_per_hour": account.burn,
        // Null while nothing is used up.
        "seconds_until_empty": account.runway.map(|runway| runway.as_secs()),
        "at_ms": now,
    });
    format!("{document:#}\n")
}

/// The same from every node, and again after a restart.
pub fn alert_document(user: &UserName, alert: &Alert) -> String {
    let document = json!({
        "id": alert.id,
        "alert": "low balance",
        "user": user,
        "balance_grc": alert.balance,
        "threshold_grc": alert.threshold,
        "raised_at_ms": alert.raised_at,
    });
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use units::{Amount, Billing, Standing};

    #[test]
    fn an_account_at_rest_has_no_end() {
        let read = |runway| -> serde_json::Value {
            let account = Account {
                balance: "1".parse().unwrap(),
                standing: Standing::Good,
                debt_limit: Amount::ZERO,
                billing: Billing::Used,
                burn: Amount::from_grc(12).unwrap(),
                runway,
            };
            let text = document(&"alice".parse().unwrap(), &account, Timestamp::from_unix_ms(7));
            serde_json::from_str(&text).unwrap()
        };
        let busy = read(Some(Duration::from_millis(300_900)));
        assert_eq!(busy["seconds_until_empty"], 300);
        assert_eq!(busy["burning_grc_per_hour"], "12.00000000");
        assert_eq!(read(None)["seconds_until_empty"], serde_json::Value::Null);
    }
}
