//! CONTAINER: what containers may take of the node's memory together.
//!
//! A container's memory limit is set aside for it from before it starts until all of it has ended, so that tasks which use
//! all they may do not push each other, or the node, out of memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The memory that a node gives to containers.
#[derive(Debug)]
pub struct NodeMemory {
    capacity_mib: u64,
    reserved_mib: Arc<Mutex<u64>>,
}

/// Given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    mib: Mutex<u64>,
    capacity_mib: u64,
    reserved_mib: Arc<Mutex<u64>>,
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
    pub fn new(capacity_mib: u64) -> Self {
        Self {
            capacity_mib,
            reserved_mib: Arc::default(),
        }
    }

    pub fn capacity_mib(&self) -> u64 {
        self.capacity_mib
    }

    pub fn reserved_mib(&self) -> u64 {
        *lock(&self.reserved_mib)
    }

    /// Sets memory aside for a container that is about to start.
    pub fn reserve(&self, mib: u64) -> Result<Reservation, NoMemory> {
        let reservation = self.adopt(0);
        reservation.resize(mib)?;
        Ok(reservation)
    }

    /// The memory of a container that runs, whether it fits or not.
    pub fn adopt(&self, mib: u64) -> Reservation {
        let mut reserved = lock(&self.reserved_mib);
        *reserved = reserved.saturating_add(mib);
        Reservation {
            mib: Mutex::new(mib),
            capacity_mib: self.capacity_mib,
            reserved_mib: self.reserved_mib.clone(),
        }
    }
}

impl Reservation {
    pub fn mib(&self) -> u64 {
        *lock(&self.mib)
    }

    /// Sets aside so much instead. Errors, and stays as it was, if that is more than the node has; less never fails.
    pub fn resize(&self, mib: u64) -> Result<(), NoMemory> {
        let (mut own, mut reserved) = (lock(&self.mib), lock(&self.reserved_mib));
        let others = reserved.saturating_sub(*own);
        let free_mib = self.capacity_mib.saturating_sub(others);
        if mib > *own && mib > free_mib {
            return Err(NoMemory {
                needed_mib: mib,
                free_mib,
                capacity_mib: self.capacity_mib,
            });
        }
        *reserved = others.saturating_add(mib);
        *own = mib;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let own = self.mib();
        let mut reserved = lock(&self.reserved_mib);
        *reserved = reserved.saturating_sub(own);
    }
}

fn lock(mib: &Mutex<u64>) -> MutexGuard<'_, u64> {
    // A number is never half changed.
    mib.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_never_exceeds_the_node_and_what_was_given_back_is_free() {
        let memory = NodeMemory::new(1000);
        let first = memory.reserve(600).unwrap();
        let refused = memory.reserve(500).unwrap_err();
        assert!(!refused.is_for_good());
        assert!(refused.to_string().contains("500 MiB"), "{refused}");
        assert!(refused.to_string().contains("400 of the 1000"), "{refused}");
        let second = memory.reserve(400).unwrap();
        assert!(memory.reserve(1).is_err());
        drop(first);
        let third = memory.reserve(600).unwrap();
        drop((second, third));
        assert!(memory.reserve(1001).unwrap_err().is_for_good());
    }

    #[test]
    fn what_runs_already_is_counted_even_if_it_does_not_fit() {
        let memory = NodeMemory::new(1000);
        let adopted = memory.adopt(1200);
        assert!(memory.reserve(1).is_err());
        drop(adopted);
        assert!(memory.reserve(1000).is_ok());
    }

    #[test]
    fn a_reservation_can_grow_into_what_is_free_and_shrink() {
        let memory = NodeMemory::new(1000);
        let (first, second) = (memory.reserve(600).unwrap(), memory.reserve(300).unwrap());
        assert!(second.resize(401).is_err());
        assert_eq!(second.mib(), 300);
        second.resize(400).unwrap();
        first.resize(100).unwrap();
        second.resize(900).unwrap();
        drop(second);
        assert!(memory.reserve(901).is_err());
        assert!(memory.reserve(900).is_ok());
    }
}
