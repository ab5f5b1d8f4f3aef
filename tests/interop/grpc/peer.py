"""gRPC's own library at both ends of the mesh.

    peer.py serve PORT
    peer.py call HOST:PORT      prints one line for each story that holds; the first that does not ends it
"""

import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "/interop.Peer/"
cancelled = 0


def unary(request, context):
    sent = dict(context.invocation_metadata())
    context.send_initial_metadata([("x-initial", sent.get("x-sent", "nothing"))])
    context.set_trailing_metadata([("x-trailer", "t"), ("x-binary-bin", b"\x00\xff")])
    return request


def stream(request, context):
    for n in range(int(request)):
        yield b"%d" % n


def collect(requests, context):
    return b",".join(requests)


def converse(requests, context):
    for request in requests:
        yield b"re: " + request


def fail(request, context):
    context.set_trailing_metadata([("x-why", "told")])
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "100% full: größer")


def fail_late(request, context):
    yield b"first"
    context.set_trailing_metadata([("x-why", "late")])
    context.abort(grpc.StatusCode.DATA_LOSS, "after a message")


def sleep(request, context):
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait(60)
    global cancelled
    cancelled += 1
    return b""


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Converse": grpc.stream_stream_rpc_method_handler(converse),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
        "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
        "Cancelled": grpc.unary_unary_rpc_method_handler(lambda request, context: b"%d" % cancelled),
    }
    service = grpc.method_handlers_generic_handler("interop.Peer", handlers)
    server.add_generic_rpc_handlers([service])
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    server.wait_for_termination()


def call(target):
    channel = grpc.insecure_channel(target)
    one = lambda name: channel.unary_unary(SERVICE + name)
    deadline = time.monotonic() + 30
    while True:
        try:
            one("Unary")(b"ready", timeout=10)
            break
        except grpc.RpcError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"{target}: {error}")
            time.sleep(0.2)

    def status(work):
        try:
            work()
        except grpc.RpcError as error:
            return error
        raise SystemExit("no error where one was expected")

    answer, done = one("Unary").with_call(b"hello", metadata=[("x-sent", "yes")], timeout=20)
    assert answer == b"hello" and done.code() == grpc.StatusCode.OK
    assert dict(done.initial_metadata())["x-initial"] == "yes"
    trailers = dict(done.trailing_metadata())
    assert trailers["x-trailer"] == "t" and trailers["x-binary-bin"] == b"\x00\xff", trailers
    print("unary")

    large = bytes(range(256)) * 14_000
    assert one("Unary")(large, timeout=30) == large
    print("large messages")

    numbers = channel.unary_stream(SERVICE + "Stream")(b"500", timeout=30)
    assert [int(n) for n in numbers] == list(range(500))
    print("server streaming")

    parts = [b"a", b"b", b"c"]
    assert channel.stream_unary(SERVICE + "Collect")(iter(parts), timeout=20) == b"a,b,c"
    print("client streaming")

    # The next message leaves when the last one is answered: nothing on the way may wait for more.
    answered = threading.Semaphore(1)

    def asking():
        for n in range(20):
            answered.acquire()
            yield b"%d" % n

    heard = []
    for answer in channel.stream_stream(SERVICE + "Converse")(asking(), timeout=30):
        heard.append(answer)
        answered.release()
    assert heard == [b"re: %d" % n for n in range(20)], heard
    print("bidirectional streaming")

    error = status(lambda: one("Fail")(b"", timeout=20))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
    assert error.details() == "100% full: größer", error.details()
    assert dict(error.trailing_metadata())["x-why"] == "told"
    print("status and trailers")

    late = channel.unary_stream(SERVICE + "FailLate")(b"", timeout=20)
    assert next(late) == b"first"
    error = status(lambda: next(late))
    assert error.code() == grpc.StatusCode.DATA_LOSS and error.details() == "after a message", error
    print("status behind a message")

    error = status(lambda: one("Nothing")(b"", timeout=20))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    print("unknown method")

    def cancellations(more_than):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if int(one("Cancelled")(b"", timeout=20)) > more_than:
                return
            time.sleep(0.1)
        raise SystemExit("the server was not told that nobody waits any more")

    before = int(one("Cancelled")(b"", timeout=20))
    began = time.monotonic()
    error = status(lambda: one("Sleep")(b"", timeout=0.5))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert time.monotonic() - began < 20
    cancellations(before)
    print("deadline")

    before = int(one("Cancelled")(b"", timeout=20))
    waiting = one("Sleep").future(b"")
    time.sleep(0.5)
    assert waiting.cancel()
    cancellations(before)
    print("cancellation")

    many = [one("Unary").future(b"%d" % n, timeout=60) for n in range(200)]
    assert [m.result() for m in many] == [b"%d" % n for n in range(200)]
    print("many at once")


if sys.argv[1] == "serve":
    serve(sys.argv[2])
else:
    call(sys.argv[2])
