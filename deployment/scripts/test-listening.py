"""The part of test-clients.sh that speaks MinIO's Python client.

Arguments: the URL of the store, an access key and its secret, and a bucket that the key must not open, or nothing.
"""

import io
import sys
import threading
import urllib.parse

from minio import Minio
from minio.error import S3Error

url, access_key, secret_key, others = sys.argv[1:]
host = urllib.parse.urlparse(url).netloc
client = Minio(endpoint=host, access_key=access_key, secret_key=secret_key, secure=False, region="us-east-1")
BUCKET = "from-minio"
KEY = "input/a b"

client.make_bucket(bucket_name=BUCKET)
told = threading.Event()


def put_until_told():
    while not told.wait(0.1):
        client.put_object(bucket_name=BUCKET, object_name=KEY, data=io.BytesIO(b"x"), length=1)


putting = threading.Thread(target=put_until_told, daemon=True)
wanted = {"bucket_name": BUCKET, "prefix": "input/", "events": ["s3:ObjectCreated:*"]}
with client.listen_bucket_notification(**wanted) as events:
    putting.start()
    for event in events:
        entity = event["Records"][0]["s3"]
        assert urllib.parse.unquote_plus(entity["object"]["key"]) == KEY, event
        assert entity["bucket"]["name"] == BUCKET, event
        break
told.set()
putting.join()
client.remove_object(bucket_name=BUCKET, object_name=KEY)
client.remove_bucket(bucket_name=BUCKET)

if others:
    try:
        with client.listen_bucket_notification(bucket_name=others) as events:
            next(iter(events))
        sys.exit("a bucket of others can be listened to")
    except S3Error as err:
        assert err.code == "AccessDenied", err
