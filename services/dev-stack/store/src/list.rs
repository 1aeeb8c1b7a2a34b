//! Pages of a listing: which keys are on it, which fold into a common prefix, where the next page starts. Pure.
//!
//! The pager is offered keys in the order of their bytes and says where the scan goes on. A prefix with a million keys
//! behind it costs one seek, so a page costs what it shows, however large the bucket is. The place where a page starts
//! is a bound, not a key that has to exist, so keys may come and go between pages and during one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::{Error, Result};

/// S3's own limit of keys and prefixes on one page; a request for more gets this many.
pub(crate) const PAGE_MAX: usize = 1000;

pub(crate) struct Pager {
    prefix: Vec<u8>,
    /// Never empty.
    delimiter: Option<Vec<u8>>,
    room: usize,
    prefixes: Vec<String>,
    next: Option<Vec<u8>>,
}

/// What to do with the key that was offered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is on the page. The scan goes on behind it.
    Entry,
    /// It folds into a common prefix. The scan goes on at the first key that is not less than this.
    Seek(Vec<u8>),
    /// The page is complete.
    Done,
}

/// Where a page starts.
pub(crate) enum Start<'a> {
    Beginning,
    /// Behind a key or common prefix, which need not exist.
    After(&'a str),
    /// Where another page has ended.
    Token(&'a str),
}

impl Pager {
    /// Returns the pager of one page and the least key to offer to it.
    pub(crate) fn new(
        prefix: &str,
        delimiter: Option<&str>,
        start: Start<'_>,
        room: usize,
    ) -> Result<(Self, Vec<u8>)> {
        let pager = Self {
            prefix: prefix.into(),
            delimiter: delimiter
                .filter(|delimiter| !delimiter.is_empty())
                .map(Into::into),
            room,
            prefixes: Vec::new(),
            next: None,
        };
        let from = match start {
            Start::Beginning => Vec::new(),
            Start::Token(token) => URL_SAFE_NO_PAD
                .decode(token)
                .map_err(|_| Error::InvalidArgument("the continuation token is not one of this store"))?,
            Start::After(key) => match pager.common_prefix(key.as_bytes()) {
                Some(common) if common == key.as_bytes() => behind(common),
                _ => [key.as_bytes(), b"\0"].concat(),
            },
        };
        let from = from.max(pager.prefix.clone());
        Ok((pager, from))
    }

    pub(crate) fn offer(&mut self, key: &[u8]) -> Step {
        if !key.starts_with(&self.prefix) {
            return Step::Done;
        }
        if self.room == 0 {
            self.next = Some(key.to_vec());
            return Step::Done;
        }
        self.room -= 1;
        match self.common_prefix(key) {
            None => Step::Entry,
            Some(common) => {
                let (seek, common) = (behind(common), String::from_utf8_lossy(common).into_owned());
                self.prefixes.push(common);
                Step::Seek(seek)
            }
        }
    }

    /// The common prefixes of the page, and the token of the next page if there is one.
    pub(crate) fn finish(self) -> (Vec<String>, Option<String>) {
        (self.prefixes, self.next.map(|key| URL_SAFE_NO_PAD.encode(key)))
    }

    /// The part of `key` up to and with the first delimiter behind the prefix.
    fn common_prefix<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let delimiter = self.delimiter.as_deref()?;
        let rest = key.strip_prefix(self.prefix.as_slice())?;
        let found = rest
            .windows(delimiter.len())
            .position(|window| window == delimiter)?;
        Some(&key[..self.prefix.len() + found + delimiter.len()])
    }
}

/// The least key that is greater than every key with this prefix. UTF-8 has no byte 0xff, so the last one can grow.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut bound = prefix.to_vec();
    if let Some(last) = bound.last_mut() {
        *last = last.saturating_add(1);
    }
    bound
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What is shown, in order: keys as they are, folded ones as their common prefix.
    fn page(
        keys: &BTreeSet<String>,
        prefix: &str,
        delimiter: &str,
        start: Start<'_>,
        room: usize,
    ) -> (Vec<String>, Option<String>) {
        let (mut pager, mut from) = Pager::new(prefix, Some(delimiter), start, room).unwrap();
        let mut shown = Vec::new();
        'seek: loop {
            for key in keys.iter().filter(|key| key.as_bytes() >= from.as_slice()) {
                match pager.offer(key.as_bytes()) {
                    Step::Entry => shown.push(key.clone()),
                    Step::Done => break 'seek,
                    Step::Seek(bound) => {
                        from = bound;
                        continue 'seek;
                    }
                }
            }
            break;
        }
        let (prefixes, next) = pager.finish();
        shown.extend(prefixes);
        shown.sort();
        (shown, next)
    }

    /// The same by the book: fold every key, drop repetitions.
    fn model(keys: &BTreeSet<String>, prefix: &str, delimiter: &str) -> Vec<String> {
        let fold = |key: &String| {
            let rest = key.strip_prefix(prefix)?;
            let end = (!delimiter.is_empty()).then(|| rest.find(delimiter)).flatten();
            Some(end.map_or(key.clone(), |at| {
                format!("{prefix}{}", &rest[..at + delimiter.len()])
            }))
        };
        keys.iter()
            .filter_map(fold)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    fn keys() -> impl Strategy<Value = BTreeSet<String>> {
        prop::collection::btree_set("[ab/é\u{10ffff}]{1,5}", 0..40)
    }

    proptest! {
        #[test]
        fn pages_of_any_size_add_up_to_the_whole_listing(
            keys in keys(),
            prefix in "[ab/]{0,2}",
            delimiter in "(|/|a|ab|é)",
            room in 1_usize..6,
        ) {
            let mut shown = Vec::new();
            let mut token = None;
            loop {
                let start = token.as_deref().map_or(Start::Beginning, Start::Token);
                let (more, next) = page(&keys, &prefix, &delimiter, start, room);
                prop_assert!(more.len() <= room);
                shown.extend(more);
                match next {
                    Some(next) => token = Some(next),
                    None => break,
                }
            }
            prop_assert_eq!(shown, model(&keys, &prefix, &delimiter));
        }

        #[test]
        fn a_page_goes_on_behind_whatever_was_shown_last(
            keys in keys(),
            delimiter in "(|/|a)",
            room in 1_usize..6,
        ) {
            let mut shown: Vec<String> = Vec::new();
            loop {
                let start = shown.last().map_or(Start::Beginning, |last| Start::After(last));
                let (more, _) = page(&keys, "", &delimiter, start, room);
                if more.is_empty() {
                    break;
                }
                shown.extend(more);
            }
            prop_assert_eq!(shown, model(&keys, "", &delimiter));
        }
    }

    #[test]
    fn a_foreign_token_is_refused() {
        assert!(Pager::new("", None, Start::Token("???"), 1).is_err());
    }
}
