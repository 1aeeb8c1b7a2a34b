//! Who may look: whoever opened the address that has the key in it, and from then on the browser, by a cookie.

use std::io;
use std::net::SocketAddr;

use access::{TokenHash, token};
use axum::http::Uri;
use axum::http::header::{COOKIE, HeaderMap, HeaderValue};
use service_kit::Secret;

const QUERY: &str = "key=";

/// Opens one dashboard until it stops.
#[derive(Clone, Debug)]
pub struct Key(Secret);

impl Key {
    /// Errors if the system has no random numbers.
    pub fn random() -> io::Result<Self> {
        token::random().map(Self)
    }

    /// What a browser opens, for those who may look.
    pub fn address(&self, listener: SocketAddr) -> String {
        format!("http://{listener}/?{QUERY}{}", self.0.expose())
    }
}

/// Tells who has the key.
pub(crate) struct Door {
    key: TokenHash,
    cookie: String,
}

/// What a request has to show for itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The key in its address: the browser is given this cookie.
    Key(HeaderValue),
    Cookie,
    Nothing,
}

impl Door {
    pub(crate) fn new(key: &Key, port: u16) -> Self {
        Self {
            key: TokenHash::of(key.0.expose()),
            // Browsers keep the cookies of all ports of an address together.
            cookie: format!("gridfaas-dashboard-{port}"),
        }
    }

    pub(crate) fn look(&self, uri: &Uri, headers: &HeaderMap) -> Shown {
        if let Some(cookie) = self.cookie_of(uri) {
            return Shown::Key(cookie);
        }
        let cookies = headers.get_all(COOKIE).into_iter();
        let mut values = cookies
            .filter_map(|cookies| cookies.to_str().ok())
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|cookie| cookie.trim().strip_prefix(&self.cookie)?.strip_prefix('='));
        if values.any(|value| self.fits(value)) {
            Shown::Cookie
        } else {
            Shown::Nothing
        }
    }

    fn cookie_of(&self, uri: &Uri) -> Option<HeaderValue> {
        let mut parts = uri.query()?.split('&');
        let key = parts.find_map(|part| part.strip_prefix(QUERY))?;
        let cookie = format!("{}={key}; Path=/; HttpOnly; SameSite=Strict", self.cookie);
        self.fits(key).then(|| cookie.parse().ok())?
    }

    /// Hashes are compared: the time that takes tells nothing of the key.
    fn fits(&self, key: &str) -> bool {
        TokenHash::of(key) == self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(door: &Door, uri: &str, cookie: &str) -> Shown {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, cookie.parse().unwrap());
        door.look(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn the_key_gets_a_cookie_that_opens_this_dashboard_and_no_other() {
        let (key, address) = (Key::random().unwrap(), SocketAddr::from(([127, 0, 0, 1], 7404)));
        let (door, address) = (Door::new(&key, 7404), key.address(address));
        let Shown::Key(cookie) = look(&door, &address, "") else {
            panic!("{address} opens nothing");
        };
        let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
        assert_eq!(look(&door, "/api/node", cookie), Shown::Cookie);
        let among = format!("a=b; {cookie}; c=d");
        assert_eq!(look(&door, "/api/node", &among), Shown::Cookie);
        // An older address in a browser that has been let in.
        assert_eq!(look(&door, "/?key=old", cookie), Shown::Cookie);

        let another = Door::new(&Key::random().unwrap(), 7404);
        let elsewhere = Door::new(&key, 7405);
        for (door, uri, cookie) in [
            (&door, "/", ""),
            (&door, "/?key=", ""),
            (&door, "/?kez=x", "gridfaas-dashboard-7404="),
            (&another, &*address, cookie),
            (&elsewhere, "/", cookie),
        ] {
            assert_eq!(look(door, uri, cookie), Shown::Nothing, "{uri} {cookie}");
        }
    }
}
