//! Measures the ledger; `deployment/scripts/bench-ledger.sh` runs it, each side on a core of its own.
//!
//! ```text
//! ledger-bench serve FOLDER USERS                          the real service over a fake wallet, until standard input ends
//! ledger-bench load FOLDER URL USERS NODES SESSIONS INTERVAL_MS SECONDS    the tokens are in FOLDER; INTERVAL_MS 0: as
//!                                                          fast as answers come
//! ledger-bench fill FOLDER TRANSFERS                       a ledger of that many transfers
//! ledger-bench read FOLDER                                 times what is asked of it
//! ```

#![expect(clippy::unwrap_used, reason = "a measurement that fails has nothing to tell")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod big;
mod load;
mod serve;

use std::path::Path;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| -> u64 { text.parse().unwrap() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match args.as_slice() {
        ["serve", folder, users] => runtime.block_on(serve::serve(Path::new(folder), number(users))),
        ["load", folder, url, users, nodes, sessions, interval, seconds] => {
            runtime.block_on(load::load(load::Plan {
                folder: Path::new(folder).to_owned(),
                url: (*url).to_owned(),
                users: number(users),
                nodes: number(nodes),
                sessions: number(sessions),
                interval_ms: number(interval),
                seconds: number(seconds),
            }))
        }
        ["fill", folder, transfers] => big::fill(Path::new(folder), number(transfers)),
        ["read", folder] => runtime.block_on(big::read(Path::new(folder))),
        _ => panic!("see the first lines of this program"),
    }
}
