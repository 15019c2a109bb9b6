"""An S3 store in memory (moto) on a free port of loopback, with one bucket and one user; signatures are verified.

Prints `{"endpoint", "key", "secret"}` on stdout when it serves. Requests are answered one at a time, so that a conditional
PUT is atomic. Beside S3 it knows, without a signature:

    GET /_keys      the bucket's keys, one per line
    GET /_down      from now on every request to S3 is answered 503
    GET /_up        no longer
"""

import json
import logging
import threading

import boto3
from moto import settings
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

BUCKET = "millrace"
ACCOUNT = "123456789012"

s3 = DomainDispatcherApplication(create_backend_app)
down = threading.Event()


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/_keys":
        answer = Response("\n".join(s3_backends[ACCOUNT]["aws"].buckets[BUCKET].keys.keys()))
    elif path in ("/_down", "/_up"):
        down.set() if path == "/_down" else down.clear()
        answer = Response("")
    elif down.is_set():
        answer = Response("<Error><Code>SlowDown</Code></Error>", status=503, mimetype="application/xml")
    else:
        answer = s3
    return answer(environ, start_response)


def main():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, app)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    anybody = {"endpoint_url": endpoint, "region_name": "us-east-1", "aws_access_key_id": "x", "aws_secret_access_key": "x"}
    boto3.client("s3", **anybody).create_bucket(Bucket=BUCKET)
    iam = boto3.client("iam", **anybody)
    iam.create_user(UserName="millrace")
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="millrace", PolicyName="s3", PolicyDocument=json.dumps(allowed))
    key = iam.create_access_key(UserName="millrace")["AccessKey"]
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    print(json.dumps({"endpoint": endpoint, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}), flush=True)
    serving.join()


main()
