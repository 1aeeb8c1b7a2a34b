"""The part of test-clients.sh that speaks boto3. Arguments: the URL of the store, a folder with `small` and `large`, and a
bucket that must be denied, or nothing."""

import sys
import urllib.request
from pathlib import Path

import boto3
from botocore.exceptions import ClientError

url, work, others = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
s3 = boto3.client("s3", endpoint_url=url)
BUCKET = "from-boto3"


def refused(code, call, **arguments):
    try:
        call(**arguments)
    except ClientError as err:
        assert err.response["Error"]["Code"] == code, err
    else:
        raise AssertionError(f"{code} was expected")


s3.create_bucket(Bucket=BUCKET)
assert BUCKET in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]

small = (work / "small").read_bytes()
keys = ["a", "a/b", "a//b", "/absolute", "../bucket/x", "x/../y", "tab\tand\x01control", "new\nline", "cr\r", "é+&<%20> ?#"]
for key in keys:
    s3.put_object(Bucket=BUCKET, Key=key, Body=small, ContentType="text/plain", Metadata={"colour": "blue"})
for key in keys:
    got = s3.get_object(Bucket=BUCKET, Key=key)
    assert got["Body"].read() == small, key
    assert (got["ContentType"], got["Metadata"]) == ("text/plain", {"colour": "blue"}), key
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, PaginationConfig={"PageSize": 3})
listed = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
assert listed == sorted(keys, key=str.encode), listed
pages = s3.get_paginator("list_objects").paginate(Bucket=BUCKET, Delimiter="/", PaginationConfig={"PageSize": 1})
prefixes = [common["Prefix"] for page in pages for common in page.get("CommonPrefixes", [])]
assert prefixes == ["../", "/", "a/", "x/"], prefixes

for algorithm in ["CRC32", "SHA1", "SHA256"]:
    s3.put_object(Bucket=BUCKET, Key="sum", Body=small, ChecksumAlgorithm=algorithm)
    assert s3.get_object(Bucket=BUCKET, Key="sum", ChecksumMode="ENABLED")["Body"].read() == small
assert s3.get_object(Bucket=BUCKET, Key="sum", Range="bytes=2-6")["Body"].read() == small[2:7]

s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "é+&<%20> ?#"})
etag = s3.head_object(Bucket=BUCKET, Key="copy")["ETag"]
refused("PreconditionFailed", s3.put_object, Bucket=BUCKET, Key="copy", Body=b"", IfNoneMatch="*")
refused("PreconditionFailed", s3.delete_object, Bucket=BUCKET, Key="copy", IfMatch='"other"')
s3.put_object(Bucket=BUCKET, Key="copy", Body=b"changed", IfMatch=etag)
refused("NoSuchKey", s3.get_object, Bucket=BUCKET, Key="absent")

s3.upload_file(str(work / "large"), BUCKET, "large")
assert "-" in s3.head_object(Bucket=BUCKET, Key="large")["ETag"], "20 MiB go up in parts"
s3.download_file(BUCKET, "large", str(work / "got"))
assert (work / "got").read_bytes() == (work / "large").read_bytes()

signed = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "é+&<%20> ?#"})
assert urllib.request.urlopen(signed).read() == small

# XML has no way to write most control characters, so a batch, whose answer names the keys, cannot have them.
odd = [key for key in keys if "\x01" in key]
for key in odd:
    s3.delete_object(Bucket=BUCKET, Key=key)
everything = [key for key in [*keys, "sum", "copy", "large"] if key not in odd]
done = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in everything]})
assert len(done["Deleted"]) == len(everything) and not done.get("Errors"), done
assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0
s3.delete_bucket(Bucket=BUCKET)

if others:
    assert others not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    refused("AccessDenied", s3.list_objects_v2, Bucket=others)
    refused("AccessDenied", s3.get_object, Bucket=others, Key="secret")
    refused("AccessDenied", s3.put_object, Bucket=others, Key="input/x", Body=b"")
