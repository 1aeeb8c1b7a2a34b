//! Buckets and objects in the index.

use rusqlite::{Connection, OptionalExtension, Row, params};
use units::Timestamp;

use crate::Created;
use crate::body::Payload;
use crate::condition::WriteCondition;
use crate::error::{Error, Result};
use crate::headers::Headers;
use crate::index::Change;
use crate::list::{PAGE_MAX, Pager, Start, Step};

/// An object without its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) content: ContentId,
    /// In bytes.
    pub(crate) size: i64,
    /// Without the quotes.
    pub(crate) etag: String,
    pub(crate) modified_at: Timestamp,
    pub(crate) headers: Headers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BucketId(pub(crate) i64);

/// Names bytes that never change. Not used again while anything refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentId(pub(crate) i64);

/// Where the bytes of a content are.
pub(crate) enum Stored {
    Inline(Vec<u8>),
    Blob(String),
}

pub(crate) struct Bucket {
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
}

pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) size: i64,
    pub(crate) etag: String,
    pub(crate) modified_at: Timestamp,
}

pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) next: Option<String>,
}

pub(crate) fn bucket(conn: &Connection, name: &str) -> Result<BucketId> {
    let mut statement = conn.prepare_cached("SELECT id FROM bucket WHERE name = ?1")?;
    let id = statement.query_row([name], |row| row.get(0)).optional()?;
    id.map(BucketId)
        .ok_or_else(|| Error::NoSuchBucket(name.to_owned()))
}

pub(crate) fn buckets(conn: &Connection) -> Result<Vec<Bucket>> {
    let mut statement = conn.prepare_cached("SELECT name, created_ms FROM bucket ORDER BY name")?;
    let read = |row: &Row<'_>| {
        Ok(Bucket {
            name: row.get(0)?,
            created_at: Timestamp::from_unix_ms(row.get(1)?),
        })
    };
    Ok(statement.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
}

pub(crate) fn create_bucket(change: &Change<'_>, name: &str, now: Timestamp) -> Result<()> {
    let insert = "INSERT INTO bucket (name, created_ms) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    if change.conn.execute(insert, params![name, now.unix_ms()])? == 0 {
        return Err(Error::BucketExists(name.to_owned()));
    }
    Ok(())
}

/// Deletes a bucket without objects. Uploads that were never completed go with it.
pub(crate) fn delete_bucket(change: &mut Change<'_>, name: &str) -> Result<()> {
    let id = bucket(change.conn, name)?;
    let holds = "SELECT EXISTS (SELECT 1 FROM object WHERE bucket = ?1)";
    if change.conn.query_row(holds, [id.0], |row| row.get(0))? {
        return Err(Error::BucketNotEmpty(name.to_owned()));
    }
    crate::multipart::abort_all(change, id)?;
    change.conn.execute("DELETE FROM bucket WHERE id = ?1", [id.0])?;
    Ok(())
}

pub(crate) fn find(conn: &Connection, bucket: BucketId, key: &str) -> Result<Option<Object>> {
    let mut statement = conn.prepare_cached(
        "SELECT content, size, etag, modified_ms, headers FROM object WHERE bucket = ?1 AND key = ?2",
    )?;
    let read = |row: &Row<'_>| {
        let headers: String = row.get(4)?;
        let object = Object {
            content: ContentId(row.get(0)?),
            size: row.get(1)?,
            etag: row.get(2)?,
            modified_at: Timestamp::from_unix_ms(row.get(3)?),
            headers: Headers::default(),
        };
        Ok((object, headers))
    };
    match statement
        .query_row(params![bucket.0, key.as_bytes()], read)
        .optional()?
    {
        None => Ok(None),
        Some((object, headers)) => Ok(Some(Object {
            headers: serde_json::from_str(&headers)?,
            ..object
        })),
    }
}

pub(crate) fn get(conn: &Connection, bucket_name: &str, key: &str) -> Result<Object> {
    let id = bucket(conn, bucket_name)?;
    find(conn, id, key)?.ok_or_else(|| Error::NoSuchKey(key.to_owned()))
}

pub(crate) fn stored(conn: &Connection, content: ContentId) -> Result<Stored> {
    let mut statement = conn.prepare_cached("SELECT data, file FROM content WHERE id = ?1")?;
    let stored = statement.query_row([content.0], |row| match row.get(0)? {
        Some(bytes) => Ok(Stored::Inline(bytes)),
        None => Ok(Stored::Blob(row.get(1)?)),
    })?;
    Ok(stored)
}

/// Names the bytes of a payload.
pub(crate) fn keep(change: &mut Change<'_>, payload: Payload) -> Result<ContentId> {
    let mut statement = change
        .conn
        .prepare_cached("INSERT INTO content (data, file) VALUES (?1, ?2)")?;
    let id = match payload {
        Payload::Inline(bytes) => statement.insert(params![bytes, None::<String>])?,
        Payload::Blob(blob) => {
            let id = statement.insert(params![None::<Vec<u8>>, blob.name()])?;
            change.store(blob);
            id
        }
    };
    Ok(ContentId(id))
}

/// Drops bytes that no object names any longer.
pub(crate) fn release(change: &mut Change<'_>, content: ContentId) -> Result<()> {
    let mut statement = change.conn.prepare_cached(
        "DELETE FROM content WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM object WHERE content = ?1) RETURNING file",
    )?;
    let file: Option<Option<String>> = statement.query_row([content.0], |row| row.get(0)).optional()?;
    if let Some(Some(file)) = file {
        change.remove(file);
    }
    Ok(())
}

/// The object that a put would replace, if `condition` allows it.
pub(crate) fn replaceable(
    conn: &Connection,
    bucket: BucketId,
    key: &str,
    condition: &WriteCondition,
) -> Result<Option<Object>> {
    let current = find(conn, bucket, key)?;
    if current.is_none() && condition.if_match.is_some() {
        return Err(Error::NoSuchKey(key.to_owned()));
    }
    condition.check(current.as_ref().map(|object| object.etag.as_str()))?;
    Ok(current)
}

/// Puts an object under a key, in place of whatever was there, if `condition` holds for that.
pub(crate) fn put(
    change: &mut Change<'_>,
    bucket_name: &str,
    key: &str,
    object: &Object,
    condition: &WriteCondition,
) -> Result<()> {
    let bucket = bucket(change.conn, bucket_name)?;
    let replaced = replaceable(change.conn, bucket, key, condition)?;
    let mut statement = change.conn.prepare_cached(
        "REPLACE INTO object (bucket, key, content, size, etag, modified_ms, headers)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    statement.execute(params![
        bucket.0,
        key.as_bytes(),
        object.content.0,
        object.size,
        object.etag,
        object.modified_at.unix_ms(),
        serde_json::to_string(&object.headers)?,
    ])?;
    drop(statement);
    if let Some(replaced) = replaced {
        release(change, replaced.content)?;
    }
    change.announce(Created {
        bucket: bucket_name.to_owned(),
        key: key.to_owned(),
    });
    Ok(())
}

/// Deletes an object if `condition` holds for what is there. To delete nothing is no error.
pub(crate) fn delete(
    change: &mut Change<'_>,
    bucket_name: &str,
    key: &str,
    condition: &WriteCondition,
) -> Result<()> {
    let bucket = bucket(change.conn, bucket_name)?;
    let current = find(change.conn, bucket, key)?;
    condition.check(current.as_ref().map(|object| object.etag.as_str()))?;
    if let Some(current) = current {
        let mut statement = change
            .conn
            .prepare_cached("DELETE FROM object WHERE bucket = ?1 AND key = ?2")?;
        statement.execute(params![bucket.0, key.as_bytes()])?;
        drop(statement);
        release(change, current.content)?;
    }
    Ok(())
}

/// One page of a listing, of at most `room` entries and prefixes.
pub(crate) fn list(
    conn: &Connection,
    bucket_name: &str,
    prefix: &str,
    delimiter: Option<&str>,
    start: Start<'_>,
    room: usize,
) -> Result<Page> {
    let bucket = bucket(conn, bucket_name)?;
    let mut entries = Vec::new();
    if room == 0 {
        return Ok(Page {
            entries,
            prefixes: Vec::new(),
            next: None,
        });
    }
    let (mut pager, mut from) = Pager::new(prefix, delimiter, start, room.min(PAGE_MAX))?;
    let mut statement = conn.prepare_cached(
        "SELECT key, size, etag, modified_ms FROM object WHERE bucket = ?1 AND key >= ?2 ORDER BY key",
    )?;
    'seek: loop {
        let mut rows = statement.query(params![bucket.0, from])?;
        while let Some(row) = rows.next()? {
            let key = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            match pager.offer(key) {
                Step::Entry => entries.push(Entry {
                    key: String::from_utf8_lossy(key).into_owned(),
                    size: row.get(1)?,
                    etag: row.get(2)?,
                    modified_at: Timestamp::from_unix_ms(row.get(3)?),
                }),
                Step::Seek(bound) => {
                    from = bound;
                    continue 'seek;
                }
                Step::Done => break 'seek,
            }
        }
        break;
    }
    let (prefixes, next) = pager.finish();
    Ok(Page {
        entries,
        prefixes,
        next,
    })
}
