"""The HTTP service, through a real server and a real client."""

import ctypes
import gc
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import PIL.Image
import psutil
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from pycocotools import mask as coco_mask

import mtseg
from mtseg.core.masks import iou, rle
from mtseg.inference.predictor import Predictor
from mtseg.serve.app import Answer, application
from mtseg.serve.limits import Limits

ROOT = Path(__file__).parents[1]
LIMITS = ("--max-megabytes", "0.2", "--max-megapixels", "0.4")
CLIENT = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None))  # a new one each time is slow
EXIF_ROTATED = 6  # value of the tag Orientation: to be turned by 90 degrees


@pytest.fixture(scope="module", autouse=True)
def closed_at_the_end():
    yield
    CLIENT.close()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ready(url, failed):
    for _ in range(600):
        assert not failed(), "the server ended"
        try:
            return CLIENT.get(f"{url}/health").raise_for_status()
        except httpx.ConnectError:
            time.sleep(0.1)
    raise TimeoutError(url)


@contextmanager
def process(segmenter):
    port = free_port()
    command = [sys.executable, "-m", "mtseg", "serve", "--weights", segmenter, "--port", str(port), *LIMITS]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as started:
        try:
            ready(url := f"http://127.0.0.1:{port}", lambda: started.poll() is not None)
            yield url, started
        finally:
            started.kill()


@pytest.fixture(scope="module")
def url(segmenter):
    with process(segmenter) as (url, _):
        yield url


@pytest.fixture(scope="module")
def predictor(segmenter):
    return mtseg.load(segmenter, device="cpu")


@contextmanager
def thread(predictor, **limits):
    """A server in this process, whose network a test can hold or break."""
    port = free_port()
    config = uvicorn.Config(application(predictor, Limits(**limits)), port=port, log_level="critical")
    server = uvicorn.Server(config)
    running = threading.Thread(target=server.run)
    running.start()
    try:
        ready(url := f"http://127.0.0.1:{port}", lambda: not running.is_alive())
        yield url
    finally:
        server.should_exit = True
        running.join(30)
        assert not running.is_alive()


def photo(seed, format="JPEG", size=(80, 60), **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).resize(size).save(buffer, format, **options)
    return buffer.getvalue()


def grey(size):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, (128, 128, 128)).save(buffer, "PNG")
    return buffer.getvalue()


def post(url, data, kind="image/jpeg", **params):
    return CLIENT.post(f"{url}/predict", content=data, headers={"Content-Type": kind}, params=params)


def upload(url, data, name="a.jpg", field="file", **params):
    return CLIENT.post(f"{url}/predict", files={field: (name, data)}, params=params)


def upload_in(url, charset, name, field="file"):
    """A form in a charset, which Python decodes by any codec of its own."""
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return post(url, head.encode() + photo(0) + b"\r\n--x--\r\n", f"multipart/form-data; boundary=x; charset={charset}")


def numbers(url):
    """{(name, *label values): value} of /metrics."""
    text = CLIENT.get(f"{url}/metrics").raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return Counter({(one.name, *one.labels.values()): one.value for one in samples})


def until(condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


def same(answer, data, predictor, **options):
    """Whether the service's answer is that of the predictor, but for rounding: images of a batch are summed in another
    order."""
    expected = predictor.predict(PIL.Image.open(io.BytesIO(data)), **options)
    found, image = answer["annotations"], answer["images"][0]
    assert (image["height"], image["width"]) == (expected.images.height[0], expected.images.width[0])
    assert len(found) == len(expected) > 0
    assert [one["query"] for one in found] == expected.query.tolist()
    assert {one["image_id"] for one in found} == {image["id"]}
    assert [one["score"] for one in found] == pytest.approx(expected.score, abs=1e-3)
    for row, (one, own) in enumerate(zip(found, expected.rles(), strict=True)):
        assert one["labels"] == {task.name: expected.names_of(task.name)[row] for task in predictor.tasks}
        chances = {task.name: expected.probability[task.name][row] for task in predictor.tasks}
        assert one["probabilities"] == pytest.approx(chances, abs=1e-3)
        assert iou([one["segmentation"]], [own])[0, 0] > 0.99
    return True


BAD = {  # what is sent -> status, and a word of the reason
    "truncated": (lambda url: post(url, photo(0)[:-200]), 400, "truncated"),
    "text": (lambda url: upload(url, b"hello"), 400, "not an image"),
    "empty": (lambda url: post(url, b""), 400, "empty"),
    "no file": (lambda url: upload(url, photo(0), field="picture"), 400, "picture"),
    "no form": (lambda url: post(url, b"abc", "multipart/form-data; boundary=x"), 400, "multipart"),
    "many bytes": (lambda url: post(url, bytes(300_000)), 413, "0.2 MB"),
    "many bytes, unannounced": (lambda url: post(url, (bytes(1000) for _ in range(300))), 413, "0.2 MB"),
    "many bytes in a form": (lambda url: upload(url, bytes(300_000)), 413, "0.2 MB"),
    "many pixels": (lambda url: post(url, grey((800, 600)), "image/png"), 413, "0.4 megapixels"),
    "no image by type": (lambda url: post(url, photo(0), "text/plain"), 415, "text/plain"),
    "half of a character": (lambda url: upload_in(url, "unicode_escape", "a", r"\ud800"), 415, "'unicode_escape'"),
    "a codec that fails": (lambda url: upload_in(url, "undefined", "a"), 415, "'undefined'"),
    "parameter": (lambda url: post(url, photo(0), colour="red"), 422, "colour: no such parameter"),
    "parameter in a form": (
        lambda url: CLIENT.post(f"{url}/predict", files={"file": photo(0)}, data={"score": "0.5"}),
        422,
        "score: ",
    ),
    "value": (lambda url: post(url, photo(0), score="2"), 422, "score"),
    "value given twice": (lambda url: post(url, photo(0), score=[0.1, 0.9]), 422, "score: given 2 times"),
}


def test_of_fifty_parallel_requests_none_is_lost_and_bad_ones_harm_no_other(url, predictor):
    before, bad = numbers(url), list(BAD.values()) * 2
    images = [photo(seed) for seed in range(50 - len(bad))]
    with ThreadPoolExecutor(50) as pool:
        good = [pool.submit(post if n % 2 else upload, url, data) for n, data in enumerate(images)]
        refused = [(pool.submit(send, url), status, word) for send, status, word in bad]
    for one, data in zip(good, images, strict=True):
        assert one.result().status_code == 200 and same(one.result().json(), data, predictor)
    for one, status, word in refused:
        answer = one.result()
        assert answer.status_code == status, answer.text
        assert word in answer.json()["detail"] and "\n" not in answer.json()["detail"]

    counted, statuses = numbers(url), Counter(status for _, status, _ in refused) | Counter({200: len(good)})
    counted.subtract(before)
    for status, count in statuses.items():
        assert counted["mtseg_requests_total", "/predict", str(status)] == count
    assert counted["mtseg_batch_images_sum",] == len(good)
    assert len(good) / 8 <= counted["mtseg_batch_images_count",] < len(good), "batches of up to 8"
    assert counted["mtseg_request_seconds_count",] == len(good)
    assert counted["mtseg_request_seconds_sum",] >= counted["mtseg_batch_seconds_sum",] > 0
    assert counted["mtseg_failures_total",] == counted["mtseg_waiting_images",] == 0
    assert counted["mtseg_accepted_requests",] == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("GET", "/predictions", 404, "valid: POST /predict, GET /health"),
        ("GET", "/static-offline-docs/no.js", 404, "valid: POST /predict"),
        ("POST", "/predict/", 404, "valid: POST /predict"),
        ("GET", "/predict", 405, "this path takes POST"),
        ("DELETE", "/docs", 405, "this path takes GET"),
        ("POST", "/static-offline-docs/no.js", 405, "this path takes GET"),
    ],
)
def test_a_wrong_path_or_method_is_an_error_of_the_same_shape(url, method, path, status, word):
    answer = CLIENT.request(method, url + path)
    assert answer.status_code == status and {*answer.json()} == {"detail"}
    assert word in answer.json()["detail"] and path in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/health", "/metrics", "/info", "/docs"])
def test_head_is_answered_as_get_without_a_body(url, path):
    answer = CLIENT.head(url + path)
    assert answer.is_success and not answer.content and int(answer.headers["content-length"]) > 0


def test_memory_stays_flat(predictor):
    images = [photo(seed, size=(600, 600)) for seed in range(4)]
    kinds = [
        lambda n: post(url, images[n % 4], mask="polygons"),
        lambda n: upload(url, images[n % 4]),
        lambda n: post(url, images[n % 4], score=0),
        lambda n: post(url, images[n % 4][:-200]),
        lambda n: post(url, bytes(300_000)),
    ]

    def used(count):
        """Bytes after so many requests: of Python and numpy, and resident without what the allocator only keeps."""
        with ThreadPoolExecutor(8) as pool:
            wait([pool.submit(kinds[n % len(kinds)], n) for n in range(count)])
        gc.collect()
        if sys.platform == "linux":
            getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
        return np.array([tracemalloc.get_traced_memory()[0], psutil.Process().memory_info().rss])

    with thread(predictor, megabytes=0.2) as url:
        tracemalloc.start()
        try:
            first = used(75)
            traced, resident = used(75) - first
        finally:
            tracemalloc.stop()
    assert traced < 4e6, "less than 4 images of 1.08 MB: a leak of one kind of request would keep 9"
    assert resident < 90e6, "less than 2 MB for each of the 45 images: the allocator leaves gaps"


def test_the_overlay_and_the_table(url, predictor):
    data = photo(3, size=(300, 200))
    drawn = upload(url, data, format="overlay")
    assert drawn.headers["content-type"] == "image/jpeg"
    image = PIL.Image.open(io.BytesIO(drawn.content))
    assert image.size == predictor.predict(PIL.Image.open(io.BytesIO(data))).plot().size
    lines = post(url, data, format="csv").text.splitlines()
    assert len(lines) == 1 + len(post(url, data).json()["annotations"])
    assert {line.split(",")[1] for line in lines[1:]} == {"1"}


def test_polygons_are_the_masks(url):
    data = photo(4)
    exact, outlined = (post(url, data, mask=mask).json()["annotations"] for mask in ("rle", "polygons"))
    for one, other in zip(exact, outlined, strict=True):
        height, width = one["segmentation"]["size"]
        assert iou([rle(other["segmentation"], height, width)], [one["segmentation"]])[0, 0] > 0.9
        assert coco_mask.area(one["segmentation"]) == one["area"]


def test_a_rotated_photo_and_other_formats(url, predictor):
    exif = PIL.Image.Exif()
    exif[0x0112] = EXIF_ROTATED
    rotated = photo(5, exif=exif)
    answer = post(url, rotated).json()
    assert (answer["images"][0]["height"], answer["images"][0]["width"]) == (80, 60)
    assert same(answer, rotated, predictor)
    for format in ("PNG", "BMP", "WEBP", "TIFF"):
        data = photo(6, format)
        assert same(post(url, data, "application/octet-stream").json(), data, predictor)


def test_the_threshold_is_that_of_the_request(url, predictor):
    data = photo(7)
    limit = float(np.median(predictor.predict(PIL.Image.open(io.BytesIO(data))).score))
    with ThreadPoolExecutor() as pool:
        every, best = pool.map(lambda score: post(url, data, score=score).json(), (0, limit))
    assert same(every, data, predictor, score=0) and same(best, data, predictor, score=limit)
    assert 0 < len(best["annotations"]) < len(every["annotations"])


def test_the_description_is_complete_and_needs_no_network(url, predictor):
    described = CLIENT.get(f"{url}/openapi.json").json()
    assert {*described["paths"]} == {"/predict", "/health", "/metrics", "/info"}
    operation = described["paths"]["/predict"]["post"]
    assert {one["name"] for one in operation["parameters"]} == {"format", "mask", "score"}
    assert all(one["description"] for one in operation["parameters"])
    assert {*operation["responses"]} >= {str(status) for _, status, _ in BAD.values()} | {"200", "503"}
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    for answer in (example, upload(url, photo(8)).json(), post(url, photo(8), mask="polygons").json()):
        Answer.model_validate(answer, extra="forbid")
    page = CLIENT.get(f"{url}/docs").text
    links = [part.split('"')[0] for key in ('src="', 'href="') for part in page.split(key)[1:]]
    assert links and all(CLIENT.get(url + link).is_success for link in links), "all lie on this server"
    assert CLIENT.get(f"{url}/info").json() == predictor.metadata.model_dump(mode="json")


def test_sigterm_answers_what_is_accepted(onnx_segmenter):
    with process(onnx_segmenter) as (url, server), ThreadPoolExecutor(20) as pool:
        assert post(url, photo(0)[:-200]).status_code == 400
        sent = [pool.submit(post, url, photo(seed, size=(300, 300))) for seed in range(20)]
        until(lambda: numbers(url)["mtseg_accepted_requests",] + sum(one.done() for one in sent) == len(sent))
        server.send_signal(signal.SIGTERM)
        assert [one.result().status_code for one in sent] == [200] * len(sent)
        assert server.wait(30) == 0
        said = server.stderr.read()
        assert f"serving on {url}," in said and "Traceback" not in said


def test_a_port_that_is_taken_is_one_line(onnx_segmenter, url):
    port = url.rpartition(":")[2]
    command = [sys.executable, "-m", "mtseg", "serve", "--weights", onnx_segmenter, "--port", port]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert port in done.stderr and "in use" in done.stderr


class Held:
    """A network that a test can hold."""

    def __init__(self, network):
        self.network, self.go, self.batches = network, threading.Event(), []

    def detect(self, squares, content, sizes):
        self.batches.append(len(squares))
        assert self.go.wait(30)
        return self.network.detect(squares, content, sizes)


@pytest.fixture
def held(predictor):
    network = Held(predictor.network)
    yield Predictor(network, predictor.metadata)
    network.go.set()


def test_a_full_queue_refuses_and_recovers(held):
    with thread(held, queue=3, batch=2) as url, ThreadPoolExecutor(3) as pool:
        sent = [pool.submit(post, url, photo(seed)) for seed in range(3)]
        until(lambda: numbers(url)["mtseg_accepted_requests",] == 3)
        refused = post(url, photo(3))
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0 and refused.json()["detail"]
        assert CLIENT.get(f"{url}/health").is_success
        held.network.go.set()
        assert [one.result().status_code for one in sent] == [200] * 3
        assert post(url, photo(3)).status_code == 200


def test_a_client_that_goes_leaves_nothing_behind(held):
    with thread(held, queue=8, batch=1) as url:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(8):
                pool.submit(CLIENT.post, f"{url}/predict", files={"file": photo(0)}, timeout=0.5)
        until(lambda: not numbers(url)["mtseg_accepted_requests",])
        assert numbers(url)["mtseg_waiting_images",] == 0
        held.network.go.set()
        assert post(url, photo(1)).status_code == 200
        assert held.network.batches == [1, 1], "only the image that had started, and the last"


def test_requests_that_wait_share_a_batch_up_to_its_pixels_and_by_threshold(held):
    with thread(held, batch=4, megapixels=0.02, wait=0) as url, ThreadPoolExecutor(9) as pool:
        sent = [pool.submit(post, url, photo(0))]
        until(lambda: held.network.batches)
        for count, params, size in ((5, {}, (80, 60)), (3, {"score": 0}, (100, 90))):  # 4,800 and 9,000 pixels
            sent += [pool.submit(post, url, photo(seed, size=size), **params) for seed in range(count)]
            until(lambda: numbers(url)["mtseg_waiting_images",] == len(sent) - 1)  # noqa: B023
        held.network.go.set()
        assert [one.result().status_code for one in sent] == [200] * len(sent)
        assert held.network.batches == [1, 4, 1, 2, 1]


class Broken(Held):
    """Fails on grey images."""

    def detect(self, squares, content, sizes):
        if any((square == 128).all() for square in squares):
            raise RuntimeError("out of memory")
        return super().detect(squares, content, sizes)


def test_an_image_that_the_network_fails_on_harms_no_other(predictor):
    network = Broken(predictor.network)
    with thread(Predictor(network, predictor.metadata)) as url, ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(post, url, photo(0))]
        until(lambda: network.batches)  # holds the network until all others wait
        sent += [pool.submit(post, url, photo(seed)) for seed in range(1, 4)]
        failing = pool.submit(post, url, grey((80, 60)), "image/png")
        until(lambda: numbers(url)["mtseg_waiting_images",] == 4)
        network.go.set()
        for seed, one in enumerate(sent):
            assert same(one.result().json(), photo(seed), predictor)
        assert failing.result().status_code == 500 and failing.result().json()["detail"]
        assert numbers(url)["mtseg_failures_total",] == 1
        assert numbers(url)["mtseg_requests_total", "/predict", "500"] == 1


def test_the_service_itself_imports_no_torch():
    code = "import sys, mtseg.serve.app; print('torch' in sys.modules)"
    command = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.check_output(command, cwd=ROOT, env=os.environ, text=True).strip() == "False"
