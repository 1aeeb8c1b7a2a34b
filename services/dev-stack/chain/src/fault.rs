//! Misbehaviour on request.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection closes without a reply, and nothing was done.
    Refuse,
    /// 401, as for a wrong password, and nothing was done.
    Unauthorised,
    /// 500 with an empty body, and nothing was done.
    InternalError,
    /// Nothing happens for this long, then all goes well.
    Delay(Duration),
    /// The call is carried out, then the connection closes without a reply.
    DropReply,
    /// The call is carried out, then the reply breaks off in its middle.
    Truncate,
    /// The connection closes at once; the call is carried out this much later.
    ApplyLate(Duration),
}

/// Faults still to come, in the order they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<VecDeque<Scripted>>);

#[derive(Debug)]
struct Scripted {
    method: Option<String>,
    fault: Fault,
    left: u32,
}

impl Faults {
    pub(crate) fn set(&self, method: Option<&str>, fault: Fault, count: u32) {
        let method = method.map(str::to_owned);
        self.lock().push_back(Scripted {
            method,
            fault,
            left: count,
        });
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// The fault that hits this call, which it uses up.
    pub(crate) fn take(&self, method: &str) -> Option<Fault> {
        let mut faults = self.lock();
        let hits = |scripted: &Scripted| scripted.method.as_deref().is_none_or(|name| name == method);
        let at = faults.iter().position(hits)?;
        let scripted = &mut faults[at];
        scripted.left = scripted.left.saturating_sub(1);
        let fault = scripted.fault;
        if scripted.left == 0 {
            faults.remove(at);
        }
        Some(fault)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Scripted>> {
        self.0.lock().expect("no holder of the faults panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_hit_their_method_as_often_as_told_and_in_order() {
        let faults = Faults::default();
        faults.set(Some("move"), Fault::DropReply, 2);
        faults.set(None, Fault::Refuse, 1);
        assert_eq!(faults.take("getinfo"), Some(Fault::Refuse));
        assert_eq!(faults.take("getinfo"), None);
        assert_eq!(faults.take("move"), Some(Fault::DropReply));
        assert_eq!(faults.take("move"), Some(Fault::DropReply));
        assert_eq!(faults.take("move"), None);
    }
}
