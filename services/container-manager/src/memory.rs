//! CONTAINER: what containers may take of the node's memory together, and whose turn it is when it is short.
//!
//! A container's memory limit is set aside for it from before it starts until all of it has ended, so that tasks which use
//! all they may do not push each other, or the node, out of memory.
//!
//! Who finds no room stands in line. The next is who waits longest among those whose user holds least. For it idle
//! containers stop at once; busy ones that have had their turn take no further tasks, those of the user who holds most first.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use units::UserName;

use crate::reservation::Reservations;

/// The memory that a node gives to containers.
#[derive(Debug)]
pub struct NodeMemory(Arc<Mutex<Books>>);

/// Given back when dropped.
#[derive(Debug)]
pub struct MemoryLease {
    id: u64,
    books: Arc<Mutex<Books>>,
}

/// A place in line, left when dropped.
#[derive(Debug)]
pub struct PlaceInLine {
    id: u64,
    turn: Arc<Notify>,
    books: Arc<Mutex<Books>>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a container needs {needed_mib} MiB of memory, and {free_mib} of the {capacity_mib} MiB that this node gives are free"
)]
pub struct NoMemory {
    needed_mib: u64,
    free_mib: u64,
    capacity_mib: u64,
}

impl NoMemory {
    /// Whether it would not fit an empty node either.
    pub fn is_for_good(&self) -> bool {
        self.needed_mib > self.capacity_mib
    }
}

impl NodeMemory {
    /// `turn`: how long a container goes on taking tasks though others wait for its memory.
    pub fn new(capacity_mib: u64, turn: Duration) -> Self {
        Self(Arc::new(Mutex::new(Books {
            capacity_mib,
            turn,
            held: BTreeMap::new(),
            line: BTreeMap::new(),
            last_id: 0,
            reservations: None,
        })))
    }

    /// Keeps free what is promised to others.
    pub fn honour(&self, reservations: Arc<Reservations>) {
        lock(&self.0).reservations = Some(reservations);
    }

    pub fn capacity_mib(&self) -> u64 {
        lock(&self.0).capacity_mib
    }

    pub fn reserved_mib(&self) -> u64 {
        lock(&self.0).reserved_mib()
    }

    pub fn free_mib(&self) -> u64 {
        lock(&self.0).free_mib()
    }

    /// What containers hold, and what those hold that are only starting, while neither changes.
    pub fn while_held<T>(&self, act: impl FnOnce(u64, u64) -> T) -> T {
        let books = lock(&self.0);
        let sum = |is_up: bool| {
            let held = books.held.values().filter(|held| held.is_up == is_up);
            held.map(|held| held.mib).fold(0, u64::saturating_add)
        };
        act(sum(true), sum(false))
    }

    /// Calls who may start now that something was given back which is not a container's.
    pub fn call_next(&self) {
        lock(&self.0).call_next();
    }

    /// Sets memory aside that was promised to `user`, past the line; `None` if nothing that will do was.
    pub fn take_promised(&self, user: &UserName, mib: u64) -> Option<MemoryLease> {
        let mut books = lock(&self.0);
        books.reservations.as_ref()?.commit_any(user, mib)?;
        let id = books.hold(user.clone(), mib, false);
        books.call_next();
        Some(MemoryLease {
            id,
            books: self.0.clone(),
        })
    }

    /// Sets memory aside for a container of `user` that is about to start. Who gets none has a `place` in line from then on,
    /// unless it would never fit, and asks again at its [turn](PlaceInLine::turn); who gets some has left the line.
    pub fn reserve(
        &self,
        user: &UserName,
        mib: u64,
        place: &mut Option<PlaceInLine>,
    ) -> Result<MemoryLease, NoMemory> {
        let standing = place.take().unwrap_or_else(|| self.stand(user, mib));
        let reserved = lock(&self.0).reserve(standing.id, mib);
        match reserved {
            Ok(id) => Ok(MemoryLease {
                id,
                books: self.0.clone(),
            }),
            Err(err) => {
                *place = (!err.is_for_good()).then_some(standing);
                Err(err)
            }
        }
    }

    fn stand(&self, user: &UserName, mib: u64) -> PlaceInLine {
        let turn = Arc::new(Notify::new());
        let waiting = Waiting {
            user: user.clone(),
            mib,
            turn: turn.clone(),
        };
        let mut books = lock(&self.0);
        let id = books.new_id();
        books.line.insert(id, waiting);
        PlaceInLine {
            id,
            turn,
            books: self.0.clone(),
        }
    }

    /// The memory of a container that runs, whether it fits or not.
    pub fn adopt(&self, user: &UserName, mib: u64) -> MemoryLease {
        let mut books = lock(&self.0);
        MemoryLease {
            id: books.hold(user.clone(), mib, true),
            books: self.0.clone(),
        }
    }
}

impl PlaceInLine {
    /// Returns when there may be room for who stands here.
    pub async fn turn(&self) {
        let expires_in = || lock(&self.books).reservations.as_ref()?.next_expiry();
        match expires_in() {
            // A promise that ends calls nobody.
            Some(expires_in) => {
                let _came_or_expired = tokio::time::timeout(expires_in, self.turn.notified()).await;
            }
            None => self.turn.notified().await,
        }
    }
}

impl Drop for PlaceInLine {
    fn drop(&mut self) {
        let mut books = lock(&self.books);
        books.line.remove(&self.id);
        books.call_next();
    }
}

impl MemoryLease {
    pub fn mib(&self) -> u64 {
        lock(&self.books).held_by(self.id)
    }

    /// The container has started.
    pub fn commit(&self) {
        if let Some(held) = lock(&self.books).held.get_mut(&self.id) {
            held.is_up = true;
        }
    }

    /// Sets aside so much instead. Errors, and stays as it was, if that is more than the node has; less never fails.
    pub fn resize(&self, mib: u64) -> Result<(), NoMemory> {
        lock(&self.books).resize(self.id, mib)
    }

    /// It is that user's from now on.
    pub fn pass_on(&self, user: &UserName) {
        if let Some(held) = lock(&self.books).held.get_mut(&self.id) {
            held.user = user.clone();
            held.since = Instant::now();
        }
    }

    /// Whether the next in line lacks what an idle container would give back.
    pub fn is_wanted(&self) -> bool {
        lock(&self.books).lacking().is_some()
    }

    /// Whether a container that takes one task after the other is to take no more, because others have waited long enough.
    pub fn is_to_yield(&self) -> bool {
        lock(&self.books).yields(self.id, Instant::now())
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        let mut books = lock(&self.books);
        books.held.remove(&self.id);
        books.call_next();
    }
}

/// Who has memory and who waits for some, by numbers that grow.
#[derive(Debug)]
struct Books {
    capacity_mib: u64,
    turn: Duration,
    held: BTreeMap<u64, Held>,
    line: BTreeMap<u64, Waiting>,
    last_id: u64,
    /// Promised to others.
    reservations: Option<Arc<Reservations>>,
}

#[derive(Debug)]
struct Held {
    user: UserName,
    mib: u64,
    since: Instant,
    /// The container runs, and is not only about to.
    is_up: bool,
}

#[derive(Debug)]
struct Waiting {
    user: UserName,
    mib: u64,
    turn: Arc<Notify>,
}

impl Books {
    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn hold(&mut self, user: UserName, mib: u64, is_up: bool) -> u64 {
        let id = self.new_id();
        let since = Instant::now();
        let held = Held {
            user,
            mib,
            since,
            is_up,
        };
        self.held.insert(id, held);
        id
    }

    fn reserved_mib(&self) -> u64 {
        self.held
            .values()
            .map(|held| held.mib)
            .fold(0, u64::saturating_add)
    }

    fn free_mib(&self) -> u64 {
        let promised = self.reservations.as_ref();
        let promised = promised.map_or(0, |promised| promised.reserved().memory_mib);
        self.capacity_mib
            .saturating_sub(self.reserved_mib())
            .saturating_sub(promised)
    }

    fn held_by(&self, id: u64) -> u64 {
        self.held.get(&id).map_or(0, |held| held.mib)
    }

    fn held_by_user(&self, user: &UserName) -> u64 {
        let theirs = self.held.values().filter(|held| held.user == *user);
        theirs.map(|held| held.mib).fold(0, u64::saturating_add)
    }

    /// Gives who stands at `place` what it needs, if there is so much and it is the next in line.
    fn reserve(&mut self, place: u64, mib: u64) -> Result<u64, NoMemory> {
        if let Some(waiting) = self.line.get_mut(&place) {
            waiting.mib = mib;
        }
        let is_next = self.next().is_some_and(|(next, _)| next == place);
        if is_next
            && mib <= self.free_mib()
            && let Some(waiting) = self.line.remove(&place)
        {
            return Ok(self.hold(waiting.user, mib, false));
        }
        Err(self.no_memory(mib, self.free_mib()))
    }

    fn resize(&mut self, id: u64, mib: u64) -> Result<(), NoMemory> {
        let own = self.held_by(id);
        let free_mib = self.free_mib().saturating_add(own);
        if mib > own && mib > free_mib {
            return Err(self.no_memory(mib, free_mib));
        }
        if let Some(held) = self.held.get_mut(&id) {
            held.mib = mib;
        }
        self.call_next();
        Ok(())
    }

    fn no_memory(&self, needed_mib: u64, free_mib: u64) -> NoMemory {
        NoMemory {
            needed_mib,
            free_mib,
            capacity_mib: self.capacity_mib,
        }
    }

    /// Of those whose user holds least, who waits longest.
    fn next(&self) -> Option<(u64, &Waiting)> {
        let line = self.line.iter().map(|(&id, waiting)| (id, waiting));
        line.min_by_key(|(id, waiting)| (self.held_by_user(&waiting.user), *id))
    }

    fn call_next(&self) {
        if let Some((_, next)) = self.next()
            && next.mib <= self.free_mib()
        {
            next.turn.notify_one();
        }
    }

    /// The next in line, and how much is not free of what it needs; `None` if it can be served, or nobody waits.
    fn lacking(&self) -> Option<(&Waiting, u64)> {
        let (_, next) = self.next()?;
        let lacking = next.mib.saturating_sub(self.free_mib());
        (lacking > 0).then_some((next, lacking))
    }

    /// Whether a container is among the fewest whose end makes room for the next in line: of those that have had their turn,
    /// whose user holds most, and of these the oldest. Nobody yields to a user who holds more.
    fn yields(&self, id: u64, at: Instant) -> bool {
        let Some((next, lacking)) = self.lacking() else {
            return false;
        };
        let least = self.held_by_user(&next.user);
        let had_their_turn = self.held.iter().filter_map(|(&id, held)| {
            let of_user = self.held_by_user(&held.user);
            (at.saturating_duration_since(held.since) >= self.turn && of_user >= least).then_some((
                Reverse(of_user),
                held.since,
                id,
                held.mib,
            ))
        });
        let mut sorted: Vec<_> = had_their_turn.collect();
        sorted.sort();
        let mut freed = 0_u64;
        let yielding = sorted.iter().take_while(|(.., mib)| {
            let is_needed = freed < lacking;
            freed = freed.saturating_add(*mib);
            is_needed
        });
        yielding.map(|(_, _, id, _)| *id).any(|yields| yields == id)
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    // They are never half changed.
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const TURN: Duration = Duration::from_secs(10);

    fn node() -> NodeMemory {
        NodeMemory::new(1000, TURN)
    }

    fn user(name: &str) -> UserName {
        name.parse().unwrap()
    }

    fn reserve(memory: &NodeMemory, mib: u64) -> Result<MemoryLease, NoMemory> {
        memory.reserve(&user("ann"), mib, &mut None)
    }

    #[test]
    fn what_is_reserved_never_exceeds_the_node_and_what_was_given_back_is_free() {
        let memory = node();
        let first = reserve(&memory, 600).unwrap();
        let refused = reserve(&memory, 500).unwrap_err();
        assert!(!refused.is_for_good());
        assert!(refused.to_string().contains("500 MiB"), "{refused}");
        assert!(refused.to_string().contains("400 of the 1000"), "{refused}");
        let second = reserve(&memory, 400).unwrap();
        assert!(reserve(&memory, 1).is_err());
        drop(first);
        let third = reserve(&memory, 600).unwrap();
        drop((second, third));
        assert!(reserve(&memory, 1001).unwrap_err().is_for_good());
    }

    #[test]
    fn what_runs_already_is_counted_even_if_it_does_not_fit() {
        let memory = node();
        let adopted = memory.adopt(&user("ann"), 1200);
        assert!(reserve(&memory, 1).is_err());
        drop(adopted);
        assert!(reserve(&memory, 1000).is_ok());
    }

    #[test]
    fn a_reservation_can_grow_into_what_is_free_and_shrink() {
        let memory = node();
        let (first, second) = (reserve(&memory, 600).unwrap(), reserve(&memory, 300).unwrap());
        assert!(second.resize(401).is_err());
        assert_eq!(second.mib(), 300);
        second.resize(400).unwrap();
        first.resize(100).unwrap();
        second.resize(900).unwrap();
        drop(second);
        assert!(reserve(&memory, 901).is_err());
        assert!(reserve(&memory, 900).is_ok());
    }

    #[test]
    fn who_holds_least_is_next_and_of_these_who_waits_longest() {
        let memory = node();
        let (ann, bob) = (user("ann"), user("bob"));
        let (first, second) = (memory.adopt(&ann, 500), memory.adopt(&ann, 500));
        let (mut anns, mut bobs, mut bobs_other) = (None, None, None);
        for (user, place) in [(&ann, &mut anns), (&bob, &mut bobs), (&bob, &mut bobs_other)] {
            memory.reserve(user, 400, place).unwrap_err();
        }
        let came = |place: &Option<PlaceInLine>| place.as_ref().unwrap().turn().now_or_never().is_some();
        assert!(![&anns, &bobs, &bobs_other].into_iter().any(came));
        drop(first);
        assert!(came(&bobs) && !came(&anns) && !came(&bobs_other));
        assert!(memory.reserve(&ann, 400, &mut anns).is_err(), "not her turn");
        assert!(
            memory.reserve(&ann, 1, &mut None).is_err(),
            "nor that of a newcomer"
        );
        let _bobs = memory.reserve(&bob, 400, &mut bobs).unwrap();
        assert!(bobs.is_none());
        drop(second);
        // Ann holds nothing now.
        assert!(came(&anns) && !came(&bobs_other));
        let _anns = memory.reserve(&ann, 400, &mut anns).unwrap();
        drop(bobs_other);
        assert!(reserve(&memory, 200).is_ok(), "who left the line holds nobody up");
    }

    #[tokio::test(start_paused = true)]
    async fn as_few_yield_as_are_needed_and_first_those_of_who_holds_most() {
        let memory = node();
        let (ann, bob, eve) = (user("ann"), user("bob"), user("eve"));
        let bobs = memory.adopt(&bob, 300);
        tokio::time::advance(Duration::from_secs(1)).await;
        let (oldest, newest) = (memory.adopt(&ann, 300), memory.adopt(&ann, 300));
        let mut place = None;
        let yielding = || [&bobs, &oldest, &newest].map(MemoryLease::is_to_yield);
        assert_eq!(yielding(), [false; 3], "nobody waits");
        memory.reserve(&eve, 350, &mut place).unwrap_err();
        assert!(bobs.is_wanted());
        assert_eq!(yielding(), [false; 3], "nobody has had a turn");
        tokio::time::advance(TURN).await;
        assert_eq!(yielding(), [false, true, false]);
        memory.reserve(&eve, 500, &mut place).unwrap_err();
        assert_eq!(yielding(), [false, true, true]);
        drop((oldest, newest));
        assert!(!bobs.is_wanted() && !bobs.is_to_yield());
        let eves = memory.reserve(&eve, 500, &mut place).unwrap();
        memory.reserve(&eve, 300, &mut place).unwrap_err();
        tokio::time::advance(TURN).await;
        assert!(
            !bobs.is_to_yield(),
            "who holds less yields to nobody who holds more"
        );
        assert!(eves.is_to_yield(), "one's own functions take turns");
    }
}
