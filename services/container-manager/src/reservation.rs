//! CONTAINER: what is promised of a node before anything starts on it.
//!
//! ```text
//!  reserve ──► held until `expires_at` ──┬── commit: a container of its owner starts on it
//!                                        ├── release
//!                                        └── expires
//! ```
//! Whether a reservation holds is judged each time it is looked at, so one that nobody comes for costs nobody anything: there
//! is nothing to clean up. The same key asks for the same reservation again.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use service_kit::{Clock, file};
use units::{MilliCores, Timestamp, UserName};
use uuid::Uuid;

/// Long enough to find a node, look into the user's funds and fetch an image, and short enough not to keep others out.
const TTL_MAX: Duration = Duration::from_secs(3600);
/// So that nobody books a node into small pieces.
const OF_OWNER_MAX: usize = 16;
const KEY_BYTES_MAX: usize = 128;

/// What containers take of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    #[serde(rename = "cpu_millicores")]
    pub cpu: MilliCores,
    pub memory_mib: u64,
    pub disk_mib: u64,
}

impl Resources {
    pub const fn saturating_add(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
            disk_mib: self.disk_mib.saturating_add(other.disk_mib),
        }
    }

    /// Zero where `other` is larger.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(other.cpu),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
            disk_mib: self.disk_mib.saturating_sub(other.disk_mib),
        }
    }

    /// Whether there is enough of each for `other`.
    pub fn covers(self, other: Self) -> bool {
        self.cpu >= other.cpu && self.memory_mib >= other.memory_mib && self.disk_mib >= other.disk_mib
    }
}

/// Asks for a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub owner: UserName,
    /// The owner's name for it: asked again with the same key, the same reservation is the answer.
    pub key: String,
    pub resources: Resources,
    /// How long it holds, unless a container starts on it before.
    pub ttl: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    pub id: Uuid,
    pub owner: UserName,
    pub key: String,
    pub resources: Resources,
    ttl_ms: u64,
    pub expires_at: Timestamp,
}

impl Reservation {
    fn holds(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReservationError {
    #[error("the node has no room for that: free are {} millicores, {} MiB of memory and {} MiB of disk", .free.cpu.millicores(), .free.memory_mib, .free.disk_mib)]
    NoRoom { free: Resources },
    #[error("a reservation `{key}` for other resources or another time is there already")]
    KeyReused { key: String },
    #[error("{owner} has {OF_OWNER_MAX} reservations, and nobody may have more")]
    TooMany { owner: UserName },
    #[error("a reservation {must}")]
    Malformed { must: &'static str },
    #[error("there is no reservation {id}, or it has expired")]
    Unknown { id: Uuid },
    #[error("reservation {id} is another user's")]
    Foreign { id: Uuid },
    #[error("failed to use `{path}`")]
    File {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

/// The reservations of a node, by id. Pure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Book(BTreeMap<Uuid, Reservation>);

impl Book {
    fn live(&self, now: Timestamp) -> impl Iterator<Item = &Reservation> {
        self.0.values().filter(move |reservation| reservation.holds(now))
    }

    fn reserved(&self, now: Timestamp) -> Resources {
        self.live(now).fold(Resources::default(), |sum, reservation| {
            sum.saturating_add(reservation.resources)
        })
    }

    /// `unallocated` is what the node offers beyond what runs.
    fn reserve(
        &mut self,
        id: Uuid,
        wanted: Wanted,
        unallocated: Resources,
        now: Timestamp,
    ) -> Result<Reservation, ReservationError> {
        let ttl_ms = check(&wanted)?;
        self.0.retain(|_, reservation| reservation.holds(now));
        let mut of_owner = self.0.values().filter(|known| known.owner == wanted.owner);
        if let Some(known) = of_owner.clone().find(|known| known.key == wanted.key) {
            let is_same = known.resources == wanted.resources && known.ttl_ms == ttl_ms;
            return is_same
                .then(|| known.clone())
                .ok_or(ReservationError::KeyReused { key: wanted.key });
        }
        if of_owner.nth(OF_OWNER_MAX - 1).is_some() {
            return Err(ReservationError::TooMany { owner: wanted.owner });
        }
        let free = unallocated.saturating_sub(self.reserved(now));
        if !free.covers(wanted.resources) {
            return Err(ReservationError::NoRoom { free });
        }
        let reservation = Reservation {
            id,
            owner: wanted.owner,
            key: wanted.key,
            resources: wanted.resources,
            ttl_ms,
            expires_at: now.plus_ms(i64::try_from(ttl_ms).unwrap_or(i64::MAX)),
        };
        self.0.insert(id, reservation.clone());
        Ok(reservation)
    }

    /// Takes a reservation out, for what its owner starts on it or because it is given back.
    fn take(&mut self, id: Uuid, owner: &UserName, now: Timestamp) -> Result<Reservation, ReservationError> {
        match self.0.get(&id) {
            Some(known) if !known.holds(now) => Err(ReservationError::Unknown { id }),
            None => Err(ReservationError::Unknown { id }),
            Some(known) if known.owner != *owner => Err(ReservationError::Foreign { id }),
            Some(_) => self.0.remove(&id).ok_or(ReservationError::Unknown { id }),
        }
    }
}

/// What makes sense of what is asked for; the time to live in milliseconds.
fn check(wanted: &Wanted) -> Result<u64, ReservationError> {
    let malformed = |must| Err(ReservationError::Malformed { must });
    if wanted.key.is_empty() || wanted.key.len() > KEY_BYTES_MAX {
        return malformed("needs a key of 1 to 128 bytes");
    }
    if wanted.resources == Resources::default() {
        return malformed("needs something to reserve");
    }
    if wanted.ttl.is_zero() || wanted.ttl > TTL_MAX {
        return malformed("holds for a millisecond to an hour");
    }
    u64::try_from(wanted.ttl.as_millis()).or(malformed("holds for a millisecond to an hour"))
}

/// The reservations of a node, on disk before anybody is told of them.
pub struct Reservations {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    book: Mutex<Book>,
    /// Held while the file is written, so that the newest is what stays.
    writing: Mutex<()>,
}

impl Reservations {
    /// Takes up what was promised before.
    pub fn load(path: PathBuf, clock: Arc<dyn Clock>) -> Result<Self, ReservationError> {
        let book = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Book::default()),
            Err(err) => Err(err),
        };
        let book = book.map_err(|err| unusable(&path, err))?;
        Ok(Self {
            path,
            clock,
            book: Mutex::new(book),
            writing: Mutex::default(),
        })
    }

    /// What all of them hold together.
    pub fn reserved(&self) -> Resources {
        self.book().reserved(self.clock.now())
    }

    /// Those that hold, of one owner or of all.
    pub fn list(&self, owner: Option<&UserName>) -> Vec<Reservation> {
        let book = self.book();
        let reached = book
            .live(self.clock.now())
            .filter(|known| owner.is_none_or(|owner| known.owner == *owner));
        reached.cloned().collect()
    }

    /// When the next of them expires.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        let now = self.clock.now();
        let next = self.book().live(now).map(|known| known.expires_at).min()?;
        u64::try_from(next.ms_since(now)).ok().map(Duration::from_millis)
    }

    /// Reserves in memory alone, of what the node has `unallocated`: [`save`](Self::save) has to follow before anybody is told.
    pub(crate) fn reserve(
        &self,
        wanted: Wanted,
        unallocated: Resources,
    ) -> Result<Reservation, ReservationError> {
        self.book()
            .reserve(Uuid::now_v7(), wanted, unallocated, self.clock.now())
    }

    /// Takes out one that `owner` starts a container on which needs so much memory, if there is one: the smallest that will do.
    /// In memory alone, as [`reserve`](Self::reserve).
    pub(crate) fn commit_any(&self, owner: &UserName, memory_mib: u64) -> Option<Reservation> {
        let now = self.clock.now();
        let mut book = self.book();
        let enough = book
            .live(now)
            .filter(|known| known.owner == *owner && known.resources.memory_mib >= memory_mib);
        let id = enough.min_by_key(|known| known.resources.memory_mib)?.id;
        book.take(id, owner, now).ok()
    }

    /// Gives one back.
    pub fn release(&self, id: Uuid, owner: &UserName) -> Result<(), ReservationError> {
        self.book().take(id, owner, self.clock.now())?;
        self.save()
    }

    /// Writes down what is promised now; on disk when this returns.
    pub fn save(&self) -> Result<(), ReservationError> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let text = serde_json::to_vec(&*self.book()).map_err(io::Error::from);
        text.and_then(|text| file::replace(&self.path, 0o600, &text))
            .map_err(|err| unusable(&self.path, err))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // It is never half changed.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Reservations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.book().fmt(f)
    }
}

fn unusable(path: &Path, err: io::Error) -> ReservationError {
    ReservationError::File {
        path: path.to_owned(),
        err,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use service_kit::ManualClock;

    use super::*;

    const NODE: Resources = resources(4000, 8192, 10_000);
    const MINUTE: Duration = Duration::from_secs(60);

    const fn resources(millicores: u32, memory_mib: u64, disk_mib: u64) -> Resources {
        Resources {
            cpu: MilliCores::from_millicores(millicores),
            memory_mib,
            disk_mib,
        }
    }

    fn user(name: &str) -> UserName {
        name.parse().unwrap()
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn wanted(owner: &str, key: &str, resources: Resources) -> Wanted {
        Wanted {
            owner: user(owner),
            key: key.to_owned(),
            resources,
            ttl: MINUTE,
        }
    }

    fn reserve(book: &mut Book, wanted: Wanted, now: i64) -> Result<Reservation, ReservationError> {
        book.reserve(Uuid::now_v7(), wanted, NODE, at(now))
    }

    #[test]
    fn the_same_key_is_the_same_reservation_and_never_another() {
        let mut book = Book::default();
        let asked = wanted("ann", "job-1", resources(1000, 1024, 0));
        let first = reserve(&mut book, asked.clone(), 0).unwrap();
        assert_eq!(reserve(&mut book, asked.clone(), 10).unwrap(), first);
        let more = wanted("ann", "job-1", resources(2000, 1024, 0));
        let refused = reserve(&mut book, more.clone(), 10);
        assert!(matches!(refused, Err(ReservationError::KeyReused { .. })));
        // Keys are the owner's own, and free again once the reservation is over.
        let bobs = reserve(&mut book, wanted("bob", "job-1", resources(1000, 1024, 0)), 10).unwrap();
        assert_ne!(bobs.id, first.id);
        assert_ne!(reserve(&mut book, more, 60_000).unwrap().id, first.id);
    }

    #[test]
    fn what_has_expired_or_is_anothers_cannot_be_used() {
        let mut book = Book::default();
        let asked = wanted("ann", "a", resources(1000, 1024, 0));
        let id = reserve(&mut book, asked, 0).unwrap().id;
        let taken = book.take(id, &user("bob"), at(1));
        assert!(matches!(taken, Err(ReservationError::Foreign { .. })));
        let taken = book.take(id, &user("ann"), at(60_000));
        assert!(matches!(taken, Err(ReservationError::Unknown { .. })));
        assert!(book.take(id, &user("ann"), at(59_999)).is_ok());
        let taken = book.take(id, &user("ann"), at(59_999));
        assert!(matches!(taken, Err(ReservationError::Unknown { .. })));
    }

    #[test]
    fn ten_that_expired_leave_everything_free() {
        let mut book = Book::default();
        for number in 0..10 {
            let asked = wanted("ann", &number.to_string(), resources(400, 800, 1000));
            reserve(&mut book, asked, number).unwrap();
        }
        assert_eq!(book.reserved(at(59_999)), resources(4000, 8000, 10_000));
        assert_eq!(book.reserved(at(60_000)), resources(3600, 7200, 9000));
        assert_eq!(book.reserved(at(60_009)), Resources::default());
    }

    #[test]
    fn each_kind_of_resource_has_to_fit() {
        for short in [
            resources(4001, 0, 0),
            resources(0, 8193, 0),
            resources(0, 0, 10_001),
        ] {
            let refused = reserve(&mut Book::default(), wanted("ann", "a", short), 0);
            assert!(matches!(refused, Err(ReservationError::NoRoom { free: NODE })));
        }
        assert!(reserve(&mut Book::default(), wanted("ann", "a", NODE), 0).is_ok());
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_nobody_has_too_many() {
        let good = || wanted("ann", "a", resources(1, 0, 0));
        let ttl = |ttl| Wanted { ttl, ..good() };
        for bad in [
            wanted("ann", "", resources(1, 0, 0)),
            wanted("ann", &"k".repeat(129), resources(1, 0, 0)),
            wanted("ann", "a", Resources::default()),
            ttl(Duration::ZERO),
            ttl(TTL_MAX + Duration::from_secs(1)),
        ] {
            let refused = reserve(&mut Book::default(), bad, 0);
            assert!(matches!(refused, Err(ReservationError::Malformed { .. })));
        }
        let mut book = Book::default();
        let mut ask = |owner, number: usize| {
            reserve(
                &mut book,
                wanted(owner, &number.to_string(), resources(1, 0, 0)),
                0,
            )
        };
        for number in 0..OF_OWNER_MAX {
            ask("ann", number).unwrap();
        }
        assert!(matches!(
            ask("ann", OF_OWNER_MAX),
            Err(ReservationError::TooMany { .. })
        ));
        assert!(ask("bob", OF_OWNER_MAX).is_ok());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Reserve(u8, u8, Resources, u16),
        /// A container starts on the so-many-th reservation, asked for by this owner.
        Commit(usize, u8),
        Release(usize, u8),
        /// The so-many-th container ends.
        End(usize),
        Wait(u16),
        /// The process ends here and goes on with what is on disk.
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let asked = (0..2000_u32, 0..3000_u64, 0..4000_u64)
            .prop_map(|(cpu, memory, disk)| resources(cpu, memory, disk));
        let step = prop_oneof![
            5 => (0..3_u8, 0..20_u8, asked, 0..30_000_u16).prop_map(|(owner, key, asked, ttl)| Step::Reserve(owner, key, asked, ttl)),
            3 => (any::<usize>(), 0..3_u8).prop_map(|(which, owner)| Step::Commit(which, owner)),
            2 => (any::<usize>(), 0..3_u8).prop_map(|(which, owner)| Step::Release(which, owner)),
            2 => any::<usize>().prop_map(Step::End),
            2 => (0..5000_u16).prop_map(Step::Wait),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 1000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn whatever_happens_nothing_is_promised_or_used_twice(steps in steps()) {
            let (mut book, mut running, mut now) = (Book::default(), Vec::<Resources>::new(), at(0));
            for step in steps {
                let allocated = running.iter().fold(Resources::default(), |sum, used| sum.saturating_add(*used));
                let before = book.reserved(now);
                let chosen = |which: usize| {
                    let all: Vec<&Reservation> = book.0.values().collect();
                    (!all.is_empty()).then(|| all[which % all.len()].clone())
                };
                let name = |owner: u8| user(["ann", "bob", "eve"][usize::from(owner)]);
                match step {
                    Step::Reserve(owner, key, asked, ttl) => {
                        let wanted = Wanted {
                            owner: name(owner),
                            key: key.to_string(),
                            resources: asked,
                            ttl: Duration::from_millis(ttl.into()),
                        };
                        let fits = NODE.saturating_sub(allocated).saturating_sub(before).covers(asked);
                        match book.reserve(Uuid::now_v7(), wanted, NODE.saturating_sub(allocated), now) {
                            Ok(made) => prop_assert!(fits || before == book.reserved(now), "{made:?} does not fit"),
                            Err(ReservationError::NoRoom { .. }) => prop_assert!(!fits),
                            Err(_) => {}
                        }
                    }
                    Step::Commit(which, owner) => {
                        if let Some(known) = chosen(which) {
                            let may = known.owner == name(owner) && known.holds(now);
                            let taken = book.take(known.id, &name(owner), now);
                            prop_assert_eq!(taken.is_ok(), may);
                            running.extend(taken.map(|taken| taken.resources));
                        }
                    }
                    Step::Release(which, owner) => {
                        if let Some(known) = chosen(which) {
                            let _others_and_expired_are_refused = book.take(known.id, &name(owner), now);
                        }
                    }
                    Step::End(which) => {
                        if !running.is_empty() {
                            running.swap_remove(which % running.len());
                        }
                    }
                    Step::Wait(ms) => now = now.plus_ms(ms.into()),
                    Step::Restart => {
                        let kept = serde_json::to_string(&book).unwrap();
                        prop_assert_eq!(&serde_json::from_str::<Book>(&kept).unwrap(), &book);
                    }
                }
                let allocated = running.iter().fold(Resources::default(), |sum, used| sum.saturating_add(*used));
                let taken = allocated.saturating_add(book.reserved(now));
                prop_assert!(NODE.covers(taken), "{taken:?}");
                let free = NODE.saturating_sub(taken);
                prop_assert_eq!(taken.saturating_add(free), NODE);
            }
        }
    }

    #[test]
    fn what_is_promised_outlives_the_process_and_expires_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reservations.json");
        let clock = Arc::new(ManualClock::at(at(0)));
        let load = || Reservations::load(path.clone(), clock.clone()).unwrap();
        let first = load();
        let asked = wanted("ann", "a", resources(1000, 1024, 0));
        let made = first.reserve(asked, NODE).unwrap();
        first.save().unwrap();
        let second = load();
        assert_eq!(second.list(None), std::slice::from_ref(&made));
        assert!(second.list(Some(&user("bob"))).is_empty());
        assert!(second.commit_any(&user("bob"), 1).is_none());
        assert!(second.commit_any(&user("ann"), 1025).is_none());
        assert_eq!(second.next_expiry(), Some(MINUTE));
        clock.advance_ms(60_000);
        assert_eq!(second.reserved(), Resources::default());
        assert!(load().list(None).is_empty());
        assert!(second.release(made.id, &user("ann")).is_err());
    }
}
