//! Multipart uploads in the index.
//!
//! ```text
//! begin ── part (again and again, any order) ── complete ── object
//!   └──────────────── abort ──────────────────────► nothing
//! ```
//!
//! Completion joins the parts into one content outside the index, which may take a while, and then takes the place of
//! the upload in one commit, if the parts are still the ones that were joined.

use rusqlite::{Connection, OptionalExtension, Row, params};
use s3s::crypto::{Checksum as _, Md5};
use units::Timestamp;

use crate::condition::WriteCondition;
use crate::error::{Error, Result};
use crate::headers::Headers;
use crate::index::Change;
use crate::objects::{self, BucketId, ContentId, Object};

/// S3's limits.
pub(crate) const PART_NUMBER_MAX: i32 = 10_000;
const PART_BYTES_MIN: i64 = 5 * 1024 * 1024;

pub(crate) struct Upload {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) initiated_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) number: i32,
    pub(crate) content: ContentId,
    /// In bytes.
    pub(crate) size: i64,
    /// The MD5 of its bytes in hexadecimal, without the quotes.
    pub(crate) etag: String,
    pub(crate) modified_at: Timestamp,
}

/// Names an upload as requests do. All three must agree.
#[derive(Clone)]
pub(crate) struct UploadRef {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) id: String,
}

pub(crate) fn begin(
    change: &Change<'_>,
    upload: &UploadRef,
    headers: &Headers,
    now: Timestamp,
) -> Result<()> {
    let bucket = objects::bucket(change.conn, &upload.bucket)?;
    let insert = "INSERT INTO upload (id, bucket, key, initiated_ms, headers) VALUES (?1, ?2, ?3, ?4, ?5)";
    let headers = serde_json::to_string(headers)?;
    change.conn.execute(
        insert,
        params![upload.id, bucket.0, upload.key.as_bytes(), now.unix_ms(), headers],
    )?;
    Ok(())
}

/// The headers that the object will have.
pub(crate) fn find(conn: &Connection, upload: &UploadRef) -> Result<Headers> {
    let bucket = objects::bucket(conn, &upload.bucket)?;
    let mut statement =
        conn.prepare_cached("SELECT headers FROM upload WHERE id = ?1 AND bucket = ?2 AND key = ?3")?;
    let headers: Option<String> = statement
        .query_row(params![upload.id, bucket.0, upload.key.as_bytes()], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(serde_json::from_str(
        &headers.ok_or_else(|| Error::NoSuchUpload(upload.id.clone()))?,
    )?)
}

/// Puts a part in place of an earlier one of the same number.
pub(crate) fn put_part(change: &mut Change<'_>, upload: &UploadRef, part: &Part) -> Result<()> {
    find(change.conn, upload)?;
    let mut statement = change
        .conn
        .prepare_cached("DELETE FROM part WHERE upload = ?1 AND number = ?2 RETURNING content")?;
    let replaced = statement
        .query_row(params![upload.id, part.number], |row| row.get(0))
        .optional()?;
    drop(statement);
    if let Some(replaced) = replaced {
        objects::release(change, ContentId(replaced))?;
    }
    let mut statement = change.conn.prepare_cached(
        "INSERT INTO part (upload, number, content, size, etag, modified_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let modified_ms = part.modified_at.unix_ms();
    statement.execute(params![
        upload.id,
        part.number,
        part.content.0,
        part.size,
        part.etag,
        modified_ms
    ])?;
    Ok(())
}

/// The parts with numbers above `after`, in order, at most `count` of them.
pub(crate) fn parts(conn: &Connection, upload: &UploadRef, after: i32, count: usize) -> Result<Vec<Part>> {
    find(conn, upload)?;
    let mut statement = conn.prepare_cached(
        "SELECT number, content, size, etag, modified_ms FROM part WHERE upload = ?1 AND number > ?2
         ORDER BY number LIMIT ?3",
    )?;
    let read = |row: &Row<'_>| {
        Ok(Part {
            number: row.get(0)?,
            content: ContentId(row.get(1)?),
            size: row.get(2)?,
            etag: row.get(3)?,
            modified_at: Timestamp::from_unix_ms(row.get(4)?),
        })
    };
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    Ok(statement
        .query_map(params![upload.id, after, count], read)?
        .collect::<rusqlite::Result<_>>()?)
}

/// Every part of an upload.
pub(crate) fn all_parts(conn: &Connection, upload: &UploadRef) -> Result<Vec<Part>> {
    parts(conn, upload, 0, usize::MAX)
}

/// The uploads under way for keys with `prefix`, behind `after` (a key and an upload id), in order.
pub(crate) fn uploads(
    conn: &Connection,
    bucket_name: &str,
    prefix: &str,
    after: (&str, &str),
    count: usize,
) -> Result<Vec<Upload>> {
    let bucket = objects::bucket(conn, bucket_name)?;
    let mut statement = conn.prepare_cached(
        "SELECT id, key, initiated_ms FROM upload
         WHERE bucket = ?1 AND (key, id) > (?2, ?3) AND substr(key, 1, ?5) = ?4 ORDER BY key, id LIMIT ?6",
    )?;
    let (key, id) = after;
    let prefix_length = i64::try_from(prefix.len()).unwrap_or(i64::MAX);
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let wanted = params![
        bucket.0,
        key.as_bytes(),
        id,
        prefix.as_bytes(),
        prefix_length,
        count
    ];
    let read = |row: &Row<'_>| {
        let key: Vec<u8> = row.get(1)?;
        Ok(Upload {
            id: row.get(0)?,
            key: String::from_utf8_lossy(&key).into_owned(),
            initiated_at: Timestamp::from_unix_ms(row.get(2)?),
        })
    };
    Ok(statement
        .query_map(wanted, read)?
        .collect::<rusqlite::Result<_>>()?)
}

/// Puts the joined object in place of its upload, unless a part of it was replaced in the meantime.
pub(crate) fn complete(
    change: &mut Change<'_>,
    upload: &UploadRef,
    joined: &[Part],
    object: &Object,
    condition: &WriteCondition,
) -> Result<()> {
    let present = all_parts(change.conn, upload)?;
    if let Some(changed) = joined
        .iter()
        .find(|part| numbered(&present, part.number) != Some(part))
    {
        return Err(Error::InvalidPart(changed.number));
    }
    objects::put(change, &upload.bucket, &upload.key, object, condition)?;
    abort(change, upload)
}

pub(crate) fn abort(change: &mut Change<'_>, upload: &UploadRef) -> Result<()> {
    find(change.conn, upload)?;
    discard(change, &upload.id)
}

/// Aborts every upload to a bucket.
pub(crate) fn abort_all(change: &mut Change<'_>, bucket: BucketId) -> Result<()> {
    discard_each(change, "SELECT id FROM upload WHERE bucket = ?1", bucket.0)?;
    Ok(())
}

/// Aborts the uploads that began before an instant, and returns how many there were.
pub(crate) fn abort_stale(change: &mut Change<'_>, initiated_before: Timestamp) -> Result<usize> {
    discard_each(
        change,
        "SELECT id FROM upload WHERE initiated_ms < ?1",
        initiated_before.unix_ms(),
    )
}

fn discard_each(change: &mut Change<'_>, select: &str, argument: i64) -> Result<usize> {
    let mut statement = change.conn.prepare_cached(select)?;
    let ids: Vec<String> = statement
        .query_map([argument], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    drop(statement);
    ids.iter().try_for_each(|id| discard(change, id))?;
    Ok(ids.len())
}

fn discard(change: &mut Change<'_>, id: &str) -> Result<()> {
    let mut statement = change
        .conn
        .prepare_cached("DELETE FROM part WHERE upload = ?1 RETURNING content")?;
    let contents: Vec<i64> = statement
        .query_map([id], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    drop(statement);
    for content in contents {
        objects::release(change, ContentId(content))?;
    }
    change.conn.execute("DELETE FROM upload WHERE id = ?1", [id])?;
    Ok(())
}

/// Picks the parts that a client asks to join, each by its number and, if it names one, its ETag. Pure.
pub(crate) fn select(present: &[Part], wanted: &[(i32, Option<String>)]) -> Result<Vec<Part>> {
    if wanted.is_empty() {
        return Err(Error::InvalidArgument(
            "a multipart upload needs at least one part",
        ));
    }
    if let Some(pair) = wanted.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        return Err(Error::InvalidPartOrder(pair[1].0));
    }
    let pick = |(number, etag): &(i32, Option<String>)| {
        numbered(present, *number)
            .filter(|part| etag.as_ref().is_none_or(|etag| *etag == part.etag))
            .cloned()
            .ok_or(Error::InvalidPart(*number))
    };
    let picked = wanted.iter().map(pick).collect::<Result<Vec<_>>>()?;
    let all_but_last = &picked[..picked.len() - 1];
    match all_but_last.iter().find(|part| part.size < PART_BYTES_MIN) {
        Some(part) => Err(Error::PartTooSmall {
            number: part.number,
            bytes_min: PART_BYTES_MIN,
        }),
        None => Ok(picked),
    }
}

fn numbered(parts: &[Part], number: i32) -> Option<&Part> {
    let at = parts.binary_search_by_key(&number, |part| part.number).ok()?;
    parts.get(at)
}

/// The ETag of a joined object: the MD5 of the MD5s of its parts, and how many there were.
pub(crate) fn etag(parts: &[Part]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(&unhex(&part.etag));
    }
    format!("{}-{}", hex::encode(md5.finalize()), parts.len())
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
            .unwrap_or(0)
    };
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: i32, size: i64, etag: &str) -> Part {
        let (content, modified_at) = (ContentId(i64::from(number)), Timestamp::from_unix_ms(0));
        Part {
            number,
            content,
            size,
            etag: etag.to_owned(),
            modified_at,
        }
    }

    #[test]
    fn only_the_parts_asked_for_are_joined() {
        let present = [part(1, PART_BYTES_MIN, "a"), part(2, 9, "b"), part(7, 1, "c")];
        let numbers = |wanted: &[(i32, Option<&str>)]| {
            let wanted: Vec<_> = wanted
                .iter()
                .map(|(number, etag)| (*number, etag.map(str::to_owned)))
                .collect();
            select(&present, &wanted)
                .map(|parts| parts.iter().map(|part| part.number).collect::<Vec<_>>())
                .map_err(|err| err.to_string())
        };
        assert_eq!(numbers(&[(1, Some("a")), (7, None)]), Ok(vec![1, 7]));
        assert_eq!(numbers(&[(2, Some("b"))]), Ok(vec![2]));
        assert_eq!(
            numbers(&[(1, Some("b"))]),
            Err("part 1 was not uploaded, or has another ETag".to_owned())
        );
        assert_eq!(
            numbers(&[(3, None)]),
            Err("part 3 was not uploaded, or has another ETag".to_owned())
        );
        assert_eq!(
            numbers(&[(7, None), (1, None)]),
            Err("part 1 is out of order".to_owned())
        );
        assert_eq!(
            numbers(&[(1, None), (1, None)]),
            Err("part 1 is out of order".to_owned())
        );
        assert!(
            numbers(&[(2, None), (7, None)]).is_err(),
            "part 2 is too small not to be the last"
        );
        assert!(numbers(&[]).is_err());
    }

    #[test]
    fn the_etag_is_the_md5_of_the_md5s() {
        // printf 'a' | md5sum; printf 'b' | md5sum; both digests as bytes | md5sum
        let parts = [
            part(1, 1, "0cc175b9c0f1b6a831c399e269772661"),
            part(2, 1, "92eb5ffee6ae2fec3ad71c777531578f"),
        ];
        assert_eq!(etag(&parts), "96e024ba2074fe77e8e965ba43a704be-2");
    }
}
