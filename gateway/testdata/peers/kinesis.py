"""Drives botocore: a line of JSON in per call, a line of JSON out per answer.

Blobs are base64, times RFC 3339. In: {service, op, in, records?, secret?}. Out:
{out}, {code, typed, message} or {absent: true} where botocore has no such
operation. A subscription says {ready: true} first and ends after so many
records. The first line out is {version}.
"""
import base64
import datetime
import json
import os
import sys

import botocore
import botocore.exceptions
import botocore.session
from botocore import xform_name
from botocore.config import Config

endpoint = sys.argv[1]
session = botocore.session.get_session()
clients = {}


def client(service, secret):
    if (service, secret) not in clients:
        clients[service, secret] = session.create_client(
            service, region_name="us-east-1", endpoint_url=endpoint,
            aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"], aws_secret_access_key=secret,
            config=Config(retries={"max_attempts": 0}))
    return clients[service, secret]


def to_sdk(v, key=""):
    if isinstance(v, dict):
        return {k: to_sdk(x, k) for k, x in v.items()}
    if isinstance(v, list):
        return [to_sdk(x) for x in v]
    if key == "Data":
        return base64.b64decode(v)
    return v


def to_json(v):
    if isinstance(v, dict):
        return {k: to_json(x) for k, x in v.items() if k != "ResponseMetadata"}
    if isinstance(v, list):
        return [to_json(x) for x in v]
    if isinstance(v, bytes):
        return base64.b64encode(v).decode()
    if isinstance(v, datetime.datetime):
        return v.isoformat()
    return v


def say(v):
    print(json.dumps(v), flush=True)


def subscription(out, records):
    say({"ready": True})
    events, n = [], 0
    for e in out["EventStream"]:
        event = e["SubscribeToShardEvent"]
        events.append(to_json(event))
        n += len(event["Records"])
        if n >= records:
            break
    out["EventStream"].close()
    return {"Events": events}


def answer(call):
    c = client(call["service"], call.get("secret") or os.environ["AWS_SECRET_ACCESS_KEY"])
    method = getattr(c, xform_name(call["op"]), None)
    if method is None:
        return {"absent": True}
    try:
        out = method(**to_sdk(call["in"]))
        if call["op"] == "SubscribeToShard":
            return {"out": subscription(out, call["records"])}
        return {"out": to_json(out)}
    except botocore.exceptions.ParamValidationError as err:
        # A member that this version's model does not have.
        return {"absent": "Unknown parameter" in str(err), "code": "ParamValidationError", "message": str(err)}
    except botocore.exceptions.ClientError as err:
        code = err.response["Error"]["Code"]
        known = getattr(c.exceptions, code, None)
        return {"code": code, "typed": known is not None and isinstance(err, known), "message": err.response["Error"]["Message"]}


say({"version": botocore.__version__})
for line in sys.stdin:
    say(answer(json.loads(line)))
