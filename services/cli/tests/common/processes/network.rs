//! What lies between the processes: passes everything on, holds it back, or cuts it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Weather {
    Fair,
    Stalled,
    Cut,
}

/// Where everybody listens, and the ways to them that can be cut.
pub(crate) struct Network {
    pub(crate) store: SocketAddr,
    pub(crate) chain: SocketAddr,
    pub(crate) credit: SocketAddr,
    pub(crate) nodes: [SocketAddr; 3],
    pub(crate) to_store: SocketAddr,
    pub(crate) to_chain: SocketAddr,
    pub(crate) to_credit: SocketAddr,
    weather: Arc<AtomicU8>,
}

impl Network {
    pub(crate) fn start() -> Self {
        // Held together until all are known, so that no two are the same.
        let held: [TcpListener; 6] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [store, chain, credit, nodes @ ..] = held.map(|listener| listener.local_addr().unwrap());
        let weather = Arc::new(AtomicU8::new(Weather::Fair as u8));
        Self {
            to_store: way_to(store, &weather),
            to_chain: way_to(chain, &weather),
            to_credit: way_to(credit, &weather),
            nodes,
            store,
            chain,
            credit,
            weather,
        }
    }

    /// Everybody reaches everybody at once, and who is not there refuses connections.
    pub(crate) fn direct(self) -> Self {
        Self {
            to_store: self.store,
            to_chain: self.chain,
            to_credit: self.credit,
            ..self
        }
    }

    pub(crate) fn set(&self, weather: Weather) {
        self.weather.store(weather as u8, Ordering::Relaxed);
    }
}

fn way_to(target: SocketAddr, weather: &Arc<AtomicU8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let weather = weather.clone();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if is(&weather, Weather::Cut) {
                continue;
            }
            let Ok(server) = TcpStream::connect(target) else {
                continue;
            };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let weather = weather.clone();
                thread::spawn(move || carry(from, to, &weather));
            }
        }
    });
    address
}

fn is(weather: &AtomicU8, what: Weather) -> bool {
    weather.load(Ordering::Relaxed) == what as u8
}

fn carry(mut from: TcpStream, mut to: TcpStream, weather: &AtomicU8) {
    let mut buffer = [0; 16 * 1024];
    // So that a cut is noticed also where nothing is said.
    from.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    loop {
        if is(weather, Weather::Cut) {
            break;
        }
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(err)
                if matches!(
                    err.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                continue;
            }
            Err(_) => break,
        };
        while is(weather, Weather::Stalled) {
            thread::sleep(Duration::from_millis(20));
        }
        if is(weather, Weather::Cut) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    for end in [from, to] {
        // It may be gone already.
        let _ = end.shutdown(Shutdown::Both);
    }
}
