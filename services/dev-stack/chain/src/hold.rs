//! Calls that a test holds up, to look around or to end the caller at exactly this moment.

use std::sync::Mutex;

use tokio::sync::oneshot;

/// Where a call is held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldAt {
    /// The call was received, and nothing is done yet.
    Request,
    /// The call is carried out, and the reply not sent yet.
    Reply,
}

/// A call that is, or will be, held up. It is dropped together with this: without a reply, and where it was held at the
/// request, without effect.
#[derive(Debug)]
pub struct Held {
    reached: Option<oneshot::Receiver<()>>,
    go: oneshot::Sender<()>,
}

/// The caller's connection was dropped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dropped;

impl Held {
    /// Waits until the call is held up. Whether the caller still waits for it then makes no difference.
    pub async fn reached(&mut self) {
        if let Some(reached) = self.reached.take() {
            reached.await.expect("a hold lasts until a call uses it up");
        }
    }

    /// Lets the call go on.
    pub fn release(self) {
        // Nobody waits where the call never came.
        let _never_came = self.go.send(());
    }
}

/// The chain's side of a [`Held`].
#[derive(Debug)]
pub(crate) struct Hold {
    method: String,
    pub(crate) at: HoldAt,
    reached: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
}

impl Hold {
    pub(crate) async fn wait(self) -> Result<(), Dropped> {
        // A test that only wants to hold does not listen.
        let _unheard = self.reached.send(());
        self.go.await.map_err(|_| Dropped)
    }
}

/// Holds still to come, in the order they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<Vec<Hold>>);

impl Holds {
    pub(crate) fn set(&self, method: &str, at: HoldAt) -> Held {
        let (report_reached, reached) = oneshot::channel();
        let (go, wait) = oneshot::channel();
        self.lock().push(Hold {
            method: method.to_owned(),
            at,
            reached: report_reached,
            go: wait,
        });
        Held {
            reached: Some(reached),
            go,
        }
    }

    /// The hold that hits this call, which uses it up.
    pub(crate) fn take(&self, method: &str) -> Option<Hold> {
        let mut holds = self.lock();
        let at = holds.iter().position(|hold| hold.method == method)?;
        Some(holds.remove(at))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Hold>> {
        self.0.lock().expect("no holder of the holds panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_held_call_goes_on_when_it_is_released_and_not_when_it_is_dropped() {
        let holds = Holds::default();
        let mut held = holds.set("move", HoldAt::Request);
        assert!(holds.take("getinfo").is_none());
        let waiting = tokio::spawn(holds.take("move").unwrap().wait());
        held.reached().await;
        held.release();
        assert_eq!(waiting.await.unwrap(), Ok(()));

        let held = holds.set("move", HoldAt::Reply);
        let hold = holds.take("move").unwrap();
        drop(held);
        assert_eq!(hold.wait().await, Err(Dropped));
    }
}
