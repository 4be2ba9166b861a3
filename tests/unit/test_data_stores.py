from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from surgvivqa_audio.data.archives import GzipReader
from surgvivqa_audio.data.stores import (
    ArchiveStore,
    FolderStore,
    LayeredStore,
    load_image,
    open_store,
    read_frames_folder,
    read_video_clip,
)
from surgvivqa_audio.data.video import VideoFile, VideoStore
from surgvivqa_audio.errors import BadImage, MissingFrame


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A frame whose pixels state its number: eight bars, one per bit."""
    image = np.full((height, width, 3), 40, dtype=np.uint8)
    bar = width // 8
    for bit in range(8):
        if number >> bit & 1:
            image[:, bit * bar : (bit + 1) * bar] = 220
    return image


def painted(image: np.ndarray) -> int:
    """The number that ``picture`` painted, read back through lossy coding."""
    bar = image.shape[1] // 8
    return sum(int(image[:, bit * bar + 2 : (bit + 1) * bar - 2].mean() > 130) << bit for bit in range(8))


def encode(image: np.ndarray, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, form, quality=95)
    return buffer.getvalue()


def write_video(
    path: Path, numbers: list[int], codec: str, pixel: str, rate: int = 25, gop: int = 12
) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, pixel, gop
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    "name", ["002-001/002-001_{}.jpg", "002-001/{}.jpg", "002-001_frames/002-001_{}.jpg", "002-001_{}.jpg"]
)
def test_folder_layouts(tmp_path: Path, name: str) -> None:
    target = tmp_path / name.format(12)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(encode(picture(12), "JPEG"))
    store = open_store(tmp_path)
    assert isinstance(store, FolderStore)
    assert painted(store.read("002-001", 12)) == 12
    assert store.has("002-001", 12)
    assert not store.has("002-001", 13)
    assert not store.has("002-002", 12)


def test_missing_frame_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFrame, match="no frame 7 of 002-001"):
        FolderStore(tmp_path).read("002-001", 7)


@pytest.mark.parametrize("video_id", ["../etc", "a/b", "..", "", "x\0y", ".hidden", "a..b"])
def test_video_id_cannot_leave_the_folder(tmp_path: Path, video_id: str) -> None:
    with pytest.raises(MissingFrame, match="is not a video id"):
        FolderStore(tmp_path).read(video_id, 1)


def test_one_frame_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    for name in ("v_1.jpg", "v_01.png"):
        (tmp_path / "v" / name).write_bytes(encode(picture(1), "JPEG" if name.endswith("jpg") else "PNG"))
    with pytest.raises(BadImage, match="same frame"):
        FolderStore(tmp_path).read("v", 1)


def test_truncated_jpeg_names_the_file(tmp_path: Path) -> None:
    content = encode(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    for keep in (1, 3, 20, 400, len(content) // 2, len(content) - 200):
        with pytest.raises(BadImage, match="frame_9"):
            load_image(content[:keep], "frame_9.jpg")


def test_refused_formats_and_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    from surgvivqa_audio.data import images

    for form in ("GIF", "BMP", "TIFF", "WEBP"):
        with pytest.raises(BadImage, match="JPEG or PNG"):
            load_image(encode(picture(1), form), "x")
    with pytest.raises(BadImage, match="empty"):
        load_image(b"", "x")
    with pytest.raises(BadImage, match="colour mode"):
        load_image(encode(np.zeros((4, 4), np.uint16), "PNG"), "x")
    bomb = encode(np.zeros((4097, 4097), np.uint8), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(BadImage, match="4097x4097"):
        load_image(bomb, "x")
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 100)
    with pytest.raises(BadImage, match="at most 100"):
        load_image(encode(picture(1)), "x")


def test_grey_and_transparent_become_rgb() -> None:
    grey = np.full((4, 6), 9, np.uint8)
    assert load_image(encode(grey, "PNG"), "x").tolist() == np.full((4, 6, 3), 9).tolist()
    clear = np.full((4, 6, 4), 7, np.uint8)
    assert load_image(encode(clear, "PNG"), "x").tolist() == np.full((4, 6, 3), 7).tolist()


def test_archive_folder_and_ffv1_give_identical_pixels(tmp_path: Path) -> None:
    numbers = list(range(0, 30))
    frames = {number: encode(picture(number), "PNG") for number in numbers}
    folder = tmp_path / "a" / "002-001"
    folder.mkdir(parents=True)
    for number, content in frames.items():
        (folder / f"002-001_{number}.png").write_bytes(content)
    write_tar(
        tmp_path / "002-001_frames.tar.gz",
        {f"002-001_frames/002-001_{number}.png": content for number, content in frames.items()},
    )
    write_video(tmp_path / "002-001.mkv", numbers, "ffv1", "bgr0")
    stores: list[Callable[[str, int], np.ndarray]] = [
        open_store(tmp_path / "a").read,
        open_store(tmp_path / "002-001_frames.tar.gz").read,
        open_store(tmp_path / "002-001.mkv").read,
    ]
    for number in (29, 0, 13, 14, 5):
        for read in stores:
            assert np.array_equal(read("002-001", number), picture(number))


def test_frames_of_another_procedure_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "a_frames.tar.gz"
    names = [
        "a_frames/b_1.jpg",
        "a_frames/xa_2.jpg",
        "a_frames/a_3_4.jpg",
        "a_frames/a_5.jpg",
        "a_frames/6.jpg",
    ]
    write_tar(path, {name: encode(picture(1)) for name in names})
    assert ArchiveStore(path, "a").numbers() == [5, 6]
    (tmp_path / "a").mkdir()
    for name in names:
        (tmp_path / "a" / Path(name).name).write_bytes(encode(picture(1)))
    assert FolderStore(tmp_path).numbers("a") == [5, 6]


def test_archive_index_is_stored_and_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "v_frames.tar.gz"
    write_tar(path, {"v_frames/v_3.jpg": encode(picture(3)), "v_frames/note.txt": b"x"})
    store = ArchiveStore(path, "v")
    assert store.numbers() == [3]
    assert store.index_path.is_file()
    write_tar(path, {"v_frames/v_4.jpg": encode(picture(4)), "v_frames/v_5.jpg": encode(picture(5))})
    again = ArchiveStore(path, "v")
    assert again.numbers() == [4, 5]
    assert painted(again.read("v", 5)) == 5
    store.index_path.write_text("{broken", encoding="utf-8")
    assert ArchiveStore(path, "v").numbers() == [4, 5]
    with pytest.raises(MissingFrame, match="no frame 6 of v"):
        again.read("v", 6)


def test_damaged_archives_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "v_frames.tar.gz"
    noise = np.random.default_rng(1)
    write_tar(
        path,
        {f"v_{n}.png": encode(noise.integers(0, 256, (48, 64, 3), dtype=np.uint8), "PNG") for n in range(9)},
    )
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], content[:1000] + b"\xff" * 900 + content[1900:], b"", b"no"):
        path.write_bytes(broken)
        with pytest.raises(BadImage, match="v_frames"):
            ArchiveStore(path, "v").numbers()


def test_gzip_reader_seeks_anywhere(tmp_path: Path) -> None:
    import gzip

    content = np.random.default_rng(2).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
    path = tmp_path / "x.gz"
    # Two concatenated members are one stream.
    path.write_bytes(gzip.compress(content[:170_000]) + gzip.compress(content[170_000:]) + b"\0" * 64)
    reader = GzipReader(path, every=10_000)
    for place, size in (
        (250_000, 100),
        (0, 5),
        (169_990, 20),
        (299_990, 100),
        (120_000, 60_000),
        (119_999, 2),
    ):
        assert reader.seek(place) == place
        assert reader.read(size) == content[place : place + size]
    reader.close()


@pytest.mark.parametrize(
    ("codec", "pixel", "name"), [("libx264", "yuv420p", "v.mp4"), ("mpeg4", "yuv420p", "v.avi")]
)
def test_lossy_video_is_frame_exact(tmp_path: Path, codec: str, pixel: str, name: str) -> None:
    path = tmp_path / name
    write_video(path, list(range(120)), codec, pixel)
    video = VideoFile(path)
    assert len(video) == 120
    assert video.fps == 25.0
    for index in (119, 0, 11, 12, 13, 60, 59, 1):
        assert painted(video.read(index)) == index
    assert [painted(image) for image in video.read_many([70, 10, 30])] == [70, 10, 30]
    with pytest.raises(MissingFrame, match="no frame 120"):
        video.read(120)


def test_video_store_counts_from_its_first_number(tmp_path: Path) -> None:
    write_video(tmp_path / "002-001.mp4", list(range(40)), "libx264", "yuv420p")
    store = open_store(tmp_path, first_number=1)
    assert isinstance(store, LayeredStore)
    assert painted(store.read("002-001", 1)) == 0
    assert store.has("002-001", 40)
    assert not store.has("002-001", 41)
    assert not store.has("002-001", 0)
    with pytest.raises(MissingFrame, match="no frame 41"):
        store.read("002-001", 41)
    with pytest.raises(MissingFrame, match="no video file for x"):
        VideoStore({}).read("x", 1)


def test_video_clip_defaults_to_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    write_video(path, list(range(100)), "libx264", "yuv420p")
    images, fps = read_video_clip(path)
    # 8 frames at stride 4 span 29 of 100 frames: (100 - 29) // 2 = 35.
    assert [painted(image) for image in images] == [35, 39, 43, 47, 51, 55, 59, 63]
    assert fps == 25.0
    images, _ = read_video_clip(path, frames=2, stride=1, start=98)
    assert [painted(image) for image in images] == [98, 99]
    for start in (72, -1):
        with pytest.raises(MissingFrame, match="need"):
            read_video_clip(path, start=start)


def test_playlists_and_text_are_not_videos(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    for name in ("v.mp4", "v.mkv", "v.avi"):
        for content in (f"#EXTM3U\n#EXTINF:1,\n{secret}\n", f"ffconcat version 1.0\nfile {secret}\n", ""):
            (tmp_path / name).write_text(content, encoding="utf-8")
            with pytest.raises(BadImage, match=r"cannot be read as a video|no frame|no video stream"):
                VideoFile(tmp_path / name)
    with pytest.raises(BadImage, match="neither a frame archive"):
        open_store(secret)


def test_frames_folder_is_read_in_numeric_order(tmp_path: Path) -> None:
    for number in (10, 9, 100, 1, 2, 3, 4, 5):
        (tmp_path / f"clip_{number}.png").write_bytes(encode(picture(number), "PNG"))
    assert [painted(image) for image in read_frames_folder(tmp_path)] == [1, 2, 3, 4, 5, 9, 10, 100]
    (tmp_path / "11.jpg").write_bytes(encode(picture(11)))
    with pytest.raises(MissingFrame, match="9 JPEG or PNG images, but a clip is 8"):
        read_frames_folder(tmp_path)
    assert len(read_frames_folder(tmp_path, 9)) == 9
    (tmp_path / "11.jpg").write_bytes(encode(picture(11, height=50)))
    with pytest.raises(BadImage, match="differ in size"):
        read_frames_folder(tmp_path, 9)
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(MissingFrame, match="holds no number"):
        read_frames_folder(tmp_path)
    with pytest.raises(MissingFrame, match="no such folder"):
        read_frames_folder(tmp_path / "absent")
