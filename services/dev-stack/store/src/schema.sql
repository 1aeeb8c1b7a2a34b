CREATE TABLE bucket (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL
) STRICT;

-- The bytes of objects and parts: small ones here, larger ones in the file of that name under `blobs/`.
-- A row is never changed, so a copy is a second row of `object` that names the same content.
CREATE TABLE content (
    id INTEGER PRIMARY KEY,
    data BLOB,
    file TEXT UNIQUE,
    CHECK ((data IS NULL) <> (file IS NULL))
) STRICT;

-- Keys are blobs because S3 lists them in the order of their bytes, which is how SQLite compares blobs.
CREATE TABLE object (
    bucket INTEGER NOT NULL REFERENCES bucket (id),
    key BLOB NOT NULL,
    content INTEGER NOT NULL REFERENCES content (id),
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    modified_ms INTEGER NOT NULL,
    headers TEXT NOT NULL,
    PRIMARY KEY (bucket, key)
) WITHOUT ROWID, STRICT;
CREATE INDEX object_content ON object (content);

CREATE TABLE upload (
    id TEXT PRIMARY KEY,
    bucket INTEGER NOT NULL REFERENCES bucket (id),
    key BLOB NOT NULL,
    initiated_ms INTEGER NOT NULL,
    headers TEXT NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX upload_key ON upload (bucket, key, id);

-- A part owns its content alone; only objects share theirs.
CREATE TABLE part (
    upload TEXT NOT NULL REFERENCES upload (id),
    number INTEGER NOT NULL,
    content INTEGER NOT NULL REFERENCES content (id),
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    modified_ms INTEGER NOT NULL,
    PRIMARY KEY (upload, number)
) WITHOUT ROWID, STRICT;
CREATE INDEX part_content ON part (content);
