"""What applications do, through redis-py. Run by tests/clients.rs with the port as its argument."""

import sys
import threading

try:
    import redis
except ImportError:
    print("SKIPPED: redis-py is not installed (pip install redis)")
    sys.exit(0)

PORT = int(sys.argv[1])


def connect(**options):
    return redis.Redis(port=PORT, decode_responses=True, socket_timeout=30, **options)


def basics(r):
    assert r.set("s", "1", ex=1000) and 990 < r.ttl("s") <= 1000
    assert r.get("s") == "1" and r.get("nosuch") is None
    assert r.incrby("s", 41) == 42 and r.incrbyfloat("s", 0.5) == 42.5
    assert r.set("s", "x", nx=True) is None and r.set("s", "x", get=True) == "42.5"
    assert r.mset({"a": 1, "b": 2, "c": 3}) and r.mget("a", "b", "c", "d") == ["1", "2", "3", None]
    assert r.rpush("l", 1, 2, 3) == 3 and r.lrange("l", 0, -1) == ["1", "2", "3"]
    assert r.lpos("l", "2") == 1 and r.lmove("l", "m", "LEFT", "RIGHT") == "1"
    assert r.hset("h", mapping={"x": 1, "y": 2}) == 2 and r.hgetall("h") == {"x": "1", "y": "2"}
    assert dict(r.hscan_iter("h")) == {"x": "1", "y": "2"}
    assert r.sadd("t", 1, 2, 3) == 3 and r.smembers("t") == {"1", "2", "3"}
    assert r.sadd("u", 3, 4) == 2 and r.sinter("t", "u") == {"3"}
    assert r.zadd("z", {"one": 1, "two": 2.5}) == 2
    expected = [("one", 1.0), ("two", 2.5)]
    got = r.zrange("z", 0, -1, withscores=True)
    assert [tuple(pair) for pair in got] == expected, got
    assert r.zrangebyscore("z", "(1", "+inf") == ["two"] and r.zscore("z", "two") == 2.5
    assert r.geoadd("g", (13.361389, 38.115556, "Palermo")) == 1
    assert r.pfadd("p", 1, 2, 3) == 1 and r.pfcount("p") == 3
    assert r.setbit("bits", 7, 1) == 0 and r.bitcount("bits") == 1
    assert set(r.scan_iter(count=2)) == set(r.keys()) and r.dbsize() == len(r.keys())
    assert r.type("z") == "zset" and r.delete("a", "b", "nosuch") == 2
    dump = r.client_info()
    assert "id" in dump and "redis_version" in r.info()
    try:
        r.lpush("s", 1)
        raise AssertionError("a list was pushed to a string")
    except redis.ResponseError as error:
        assert str(error).startswith("WRONGTYPE"), error


def pipelines(r):
    with r.pipeline(transaction=False) as pipe:
        for n in range(1000):
            pipe.incr(f"n{n % 10}")
        replies = pipe.execute()
    assert replies == [n // 10 + 1 for n in range(1000)]
    with r.pipeline() as pipe:
        replies = pipe.set("p1", 1).incr("p1").lpush("p1", 1).get("p1").execute(raise_on_error=False)
    assert replies[:2] == [True, 2] and isinstance(replies[2], redis.ResponseError)
    assert replies[3] == "2"


def transactions(r):
    """Many threads add to one number with WATCH; none is lost."""
    threads, times = 4, 25

    def add():
        mine = connect(protocol=r.connection_pool.connection_kwargs.get("protocol", 2))

        def body(pipe):
            total = int(pipe.get("total") or 0)
            pipe.multi()
            pipe.set("total", total + 1)
            pipe.rpush("totals", total + 1)

        for _ in range(times):
            mine.transaction(body, "total")

    running = [threading.Thread(target=add) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert r.get("total") == str(threads * times)
    assert r.lrange("totals", 0, -1) == [str(n + 1) for n in range(threads * times)]


def blocking(r):
    got = []

    def pop():
        got.append(connect().blpop(["q1", "q2"], timeout=20))

    thread = threading.Thread(target=pop)
    thread.start()
    while not any("blpop" in client.get("cmd", "") for client in r.client_list()):
        pass
    assert r.rpush("q2", "job") == 1
    thread.join()
    assert [tuple(pair) for pair in got] == [("q2", "job")], got
    assert r.llen("q2") == 0 and r.blpop("q1", timeout=0.01) is None


def publish_and_subscribe(r):
    subscriber = r.pubsub()
    subscriber.subscribe("news")
    subscriber.psubscribe("n*")
    kinds = [subscriber.get_message(timeout=20)["type"] for _ in range(2)]
    assert kinds == ["subscribe", "psubscribe"], kinds
    assert r.publish("news", "hello") == 2 and r.publish("other", "x") == 0
    messages = [subscriber.get_message(timeout=20) for _ in range(2)]
    assert sorted(m["type"] for m in messages) == ["message", "pmessage"], messages
    assert all(m["data"] == "hello" for m in messages)
    subscriber.unsubscribe()
    subscriber.punsubscribe()
    subscriber.close()


def streams(r):
    ids = [r.xadd("events", {"n": n}) for n in range(5)]
    assert r.xlen("events") == 5 and [i for i, _ in r.xrange("events")] == ids
    assert r.xgroup_create("events", "g", id="0")
    try:
        r.xgroup_create("events", "g", id="0")
        raise AssertionError("a group was created twice")
    except redis.ResponseError as error:
        assert str(error).startswith("BUSYGROUP"), error

    def read(consumer, count):
        reply = r.xreadgroup("g", consumer, {"events": ">"}, count=count)
        entries = dict(reply)["events"] if isinstance(reply, list) else reply["events"]
        # In RESP3 redis-py wraps a stream's entries once more.
        return entries if isinstance(entries[0][0], str) else entries[0]

    assert [i for i, _ in read("c1", 3)] == ids[:3]
    assert [i for i, _ in read("c2", 9)] == ids[3:]
    assert r.xack("events", "g", ids[0]) == 1 and r.xpending("events", "g")["pending"] == 4
    assert r.xautoclaim("events", "g", "c2", 0, ids[1], count=1, justid=True)[0:1]
    assert {c["name"] for c in r.xinfo_consumers("events", "g")} == {"c1", "c2"}
    assert r.xtrim("events", maxlen=2, approximate=False) == 3 and r.xinfo_stream("events")["length"] == 2


for protocol in (2, 3):
    for part in (basics, pipelines, transactions, blocking, publish_and_subscribe, streams):
        client = connect(protocol=protocol)
        client.flushall()
        try:
            part(client)
        except BaseException:
            print(f"FAILED: {part.__name__}, RESP{protocol}", flush=True)
            raise
        client.close()
print(f"everything is fine with redis-py {redis.__version__}")
