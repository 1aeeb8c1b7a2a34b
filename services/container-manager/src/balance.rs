//! What a user reads in `status/balance.json`. Pure.

use std::time::Duration;

use serde_json::json;
use units::{Timestamp, UserName};

use crate::meter::AccountView;

const HOUR: Duration = Duration::from_secs(3600);

/// The account, its burn rate on this node, and how long the balance lasts at that rate.
pub fn document(user: &UserName, account: &AccountView, now: Timestamp) -> String {
    let affordable = account.price.affordable(account.balance);
    let per_hour = account.price.cost(account.burning.over(HOUR)).unwrap_or_default();
    let lasts = account.burning.time_to_deliver(affordable);
    let document = json!({
        "user": user,
        "balance_grc": account.balance,
        "standing": account.standing,
        "burning_millicores": account.burning,
        "burning_grc_per_hour": per_hour,
        // Absent while nothing is used up.
        "seconds_until_empty": lasts.map(|lasts| lasts.as_secs()),
        "at_ms": now,
    });
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use units::{CpuPrice, MilliCores, Standing};

    #[test]
    fn the_balance_lasts_as_long_as_its_cpu_time_at_the_present_use() {
        let account = AccountView {
            balance: "1".parse().unwrap(),
            standing: Standing::Good,
            price: CpuPrice::DEFAULT,
            burning: MilliCores::from_cores(2),
        };
        let text = document(&"alice".parse().unwrap(), &account, Timestamp::from_unix_ms(7));
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["seconds_until_empty"], 300);
        assert_eq!(document["burning_grc_per_hour"], "12.00000000");
    }
}
