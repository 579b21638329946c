//! Pictures in: parity with Pillow, and files that lie. The goldens come from `tests/golden/preprocess.py`.

use image::RgbImage;
use qdetr::Error;
use qdetr::data::image::{decode, list, read, write};
use qdetr::data::preprocess::{Batch, Resize, Sample, Size, imagenet_view, resize};
use qdetr::tensor::Data;
use rand::{RngExt, SeedableRng};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/golden/preprocess").join(path)
}

fn json<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
    let list: Vec<T> = serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap();
    assert!(!list.is_empty());
    list
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn decoded(name: &str) -> RgbImage {
    read(golden("decoded").join(format!("{name}.png"))).unwrap()
}

/// The largest difference between two pictures, in grey levels.
#[track_caller]
fn largest_difference(found: &RgbImage, expected: &RgbImage, name: &str) -> u8 {
    assert_eq!(found.dimensions(), expected.dimensions(), "{name}");
    found.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b)).max().expect("pictures have pixels")
}

fn gradient(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb([(x % 256) as u8, (y % 256) as u8, ((x + y) % 256) as u8]))
}

/// Grey levels that a JPEG decoder may differ by from libjpeg-turbo. Inverse transform and colour conversion round differently
/// by up to 2; where chroma is sub-sampled, so does its interpolation, which makes it 3. Everything else must be equal.
fn decoder_tolerance(name: &str) -> u8 {
    let subsampled = ["rgb422.jpg", "rgb420.jpg", "progressive.jpg", "restart.jpg"];
    match name {
        _ if subsampled.contains(&name) => 3,
        _ if name.ends_with(".jpg") => 2,
        _ => 0,
    }
}

#[test]
fn every_kind_of_file_reads_as_pillow_reads_it() {
    let files = list(golden("files")).unwrap();
    assert!(files.len() > 50);
    for file in files {
        let name = name_of(&file);
        let found = read(&file).unwrap();
        let off = largest_difference(&found, &decoded(&name.replace('.', "_")), &name);
        assert!(off <= decoder_tolerance(&name), "{name}: {off} grey levels off");
    }
}

#[test]
fn orientations_are_not_all_the_same() {
    let upright = decoded("exif1_jpg");
    for n in 2..=8 {
        let turned = decoded(&format!("exif{n}_jpg"));
        assert_eq!(turned.dimensions() == upright.dimensions(), n < 5);
        assert_ne!(turned, upright, "exif{n}");
    }
}

#[derive(serde::Deserialize)]
struct ResizeCase {
    source: String,
    size: (usize, usize),
    step: usize,
}

#[test]
fn resized_pictures_equal_pillow_12_bit_for_bit() {
    for (n, case) in json::<ResizeCase>("resize.json").into_iter().enumerate() {
        let size = Size { width: case.size.0, height: case.size.1 };
        let whole = resize(&decoded(&case.source), size);
        assert_eq!(Size::of(&whole), size);
        let expected = read(golden("resized").join(format!("{n}.png"))).unwrap();
        let step = case.step as u32;
        let found =
            RgbImage::from_fn(whole.width().div_ceil(step), whole.height().div_ceil(step), |x, y| *whole.get_pixel(x * step, y * step));
        let name = format!("{} to {size}", case.source);
        assert_eq!(largest_difference(&found, &expected, &name), 0, "{name}");
    }
}

#[test]
fn a_jpeg_read_and_resized_stays_within_the_decoders_tolerance() {
    let jpegs: Vec<(usize, ResizeCase)> =
        json::<ResizeCase>("resize.json").into_iter().enumerate().filter(|(_, c)| c.source.ends_with("_jpg")).collect();
    assert!(jpegs.len() >= 3);
    for (n, case) in jpegs {
        let name = case.source.replace("_jpg", ".jpg");
        let picture = read(golden("files").join(&name)).unwrap();
        let found = resize(&picture, Size { width: case.size.0, height: case.size.1 });
        let off = largest_difference(&found, &read(golden("resized").join(format!("{n}.png"))).unwrap(), &name);
        assert!(off <= decoder_tolerance(&name), "{name}: {off} grey levels off");
    }
}

#[test]
fn sizes_follow_the_original_rule() {
    for [width, height, shorter, longer, new_width, new_height] in json::<[usize; 6]>("sizes.json") {
        let found = Resize { shorter, longer }.size(Size { width, height });
        assert_eq!(found, Size { width: new_width, height: new_height }, "{width} × {height} to {shorter}, {longer}");
    }
}

#[test]
fn normalized_values_equal_pytorchs_bit_for_bit() {
    let image = RgbImage::from_fn(256, 1, |x, _| image::Rgb([x as u8; 3]));
    let batch = Batch::new(&[Sample { image, original: Size { width: 256, height: 1 } }], None).unwrap();
    let expected: Vec<f32> = json::<[f32; 3]>("normalize.json").concat();
    assert_eq!(batch.pictures.normalized().data(), &Data::F32(expected));
}

#[test]
fn a_batch_pads_with_zeros_at_the_bottom_and_the_right() {
    let small = Resize { shorter: 8, longer: 12 };
    let samples = [Sample::new(&gradient(100, 50), small), Sample::new(&gradient(30, 40), small)];
    let batch = Batch::new(&samples, None).unwrap();
    assert_eq!(batch.resized, [Size { width: 12, height: 6 }, Size { width: 8, height: 10 }]);
    assert_eq!(batch.original, [Size { width: 100, height: 50 }, Size { width: 30, height: 40 }]);
    assert_eq!(batch.pictures.dims(), [2, 10, 12]);
    let bucket = Batch::new(&samples, Some(Size { width: 16, height: 11 })).unwrap();
    assert_eq!(bucket.pictures.dims(), [2, 11, 16]);
    for batch in [batch, bucket] {
        let [_, height, width] = batch.pictures.dims();
        let (pixels, mask) = (batch.pictures.normalized(), batch.pictures.mask());
        let (pixels, mask) = (pixels.to_f32(), mask.as_u32());
        for (i, &valid) in mask.iter().enumerate() {
            let (n, y, x) = (i / (height * width), i / width % height, i % width);
            let inside = x < batch.resized[n].width && y < batch.resized[n].height;
            assert_eq!(valid, u32::from(inside), "{n}, {y}, {x}");
            if inside {
                let red = f32::from(samples[n].image.get_pixel(x as u32, y as u32).0[0]) / 255.0;
                assert_eq!(pixels[i * 3], (red - 0.485) / 0.229);
            } else {
                assert_eq!(pixels[i * 3..i * 3 + 3], [0.0; 3]);
            }
        }
    }
}

#[test]
fn a_batch_that_no_shader_can_index_is_refused() {
    let sample = Sample::new(&gradient(4, 4), Resize { shorter: 4, longer: 4 });
    let refused = Batch::new(&[sample], Some(Size { width: 1 << 20, height: 1 << 20 }));
    assert!(matches!(refused, Err(Error::Config(_))));
}

#[test]
#[should_panic(expected = "does not fit into 7 × 9")]
fn a_sample_larger_than_its_bucket_is_a_mistake() {
    let sample = Sample::new(&gradient(8, 8), Resize { shorter: 8, longer: 8 });
    let _ = Batch::new(&[sample], Some(Size { width: 7, height: 9 }));
}

#[test]
fn the_imagenet_view_is_the_middle_of_the_resized_picture() {
    for (width, height) in [(333, 288), (100, 701), (256, 256), (1, 1), (257, 300)] {
        let image = gradient(width, height);
        let whole = Resize { shorter: 256, longer: usize::MAX }.apply(&image);
        let middle = |length: u32| ((length - 224) as f64 / 2.0).round_ties_even() as u32;
        let (left, top) = (middle(whole.width()), middle(whole.height()));
        let expected = image::imageops::crop_imm(&whole, left, top, 224, 224).to_image();
        assert_eq!(largest_difference(&imagenet_view(&image), &expected, "view"), 0, "{width} × {height}");
    }
}

#[test]
fn extreme_shapes_have_a_size_and_take_no_time() {
    let start = Instant::now();
    for (width, height, expected) in [
        (1, 1, (800, 800)),
        (20000, 10, (2000, 1)),
        (10, 20000, (1, 2000)),
        (20000, 1, (1333, 1)),
        (1, 20000, (1, 1333)),
        (2, 1, (1332, 666)),
    ] {
        let image = gradient(width, height);
        let sample = Sample::new(&image, Resize::DETR);
        assert_eq!(sample.image.dimensions(), expected, "{width} × {height}");
        assert!(Batch::new(&[sample], None).is_ok());
        assert_eq!(imagenet_view(&image).dimensions(), (224, 224));
    }
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// The error's text, which must name the file, on one line.
#[track_caller]
fn refused(result: qdetr::Result<RgbImage>, why: &str) -> String {
    let error = result.map(|picture| Size::of(&picture)).expect_err(why);
    assert!(matches!(error, Error::Format { .. } | Error::Io { .. }), "{why}: {error:?}");
    let text = error.to_string();
    assert!(text.lines().count() == 1 && text.contains(": "), "{why}: {text}");
    text
}

#[test]
fn truncated_files_are_refused_or_whole() {
    for file in list(golden("files")).unwrap() {
        let (name, whole) = (name_of(&file), fs::read(&file).unwrap());
        let picture = read(&file).unwrap();
        let cuts = (0..16).map(|n| whole.len() * n / 16 + n % 2).chain(whole.len() - 24..whole.len());
        for cut in cuts {
            let (result, why) = (decode(&whole[..cut], "some.jpg"), format!("{name} cut at {cut} of {}", whole.len()));
            match result {
                // What follows the pixels, such as a trailer or a second frame, may be missing unnoticed; pixels may not.
                Ok(found) if cut > whole.len() / 3 => assert_eq!(largest_difference(&found, &picture, &why), 0, "{why}"),
                result => drop(refused(result, &why)),
            }
        }
    }
}

/// Bytes of the most memory this process has used, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

/// A golden file whose bytes at the given places are replaced.
fn patched(name: &str, patches: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = fs::read(golden("files").join(name)).unwrap();
    for (at, patch) in patches {
        bytes[*at..at + patch.len()].copy_from_slice(patch);
    }
    bytes
}

/// Position of a JPEG's height and width, behind the frame header's length and precision.
fn jpeg_size_at(name: &str, start_of_frame: u8) -> usize {
    let bytes = fs::read(golden("files").join(name)).unwrap();
    bytes.windows(2).position(|w| w == [0xFF, start_of_frame]).unwrap() + 5
}

/// A PNG header that claims a size, with a correct checksum, and nothing behind it but a few bytes of pixels.
fn lying_png(width: u32, height: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0D".to_vec();
    bytes.extend(&header);
    bytes.extend(crc32(&header).to_be_bytes());
    bytes.extend(b"\0\0\0\x0CIDAT\x78\x9c\x63\x60\x60\x60\0\0\0\x04\0\x01");
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &b| (0..8).fold(crc ^ u32::from(b), |c, _| (c >> 1) ^ (0xEDB8_8320 & (0u32.wrapping_sub(c & 1)))))
}

#[test]
fn lying_headers_are_refused_at_once_and_without_memory() {
    let (baseline, progressive) = (jpeg_size_at("rgb444.jpg", 0xC0), jpeg_size_at("progressive.jpg", 0xC2));
    let huge = 0x7FFF_FFFF_u32.to_le_bytes();
    let side = 16_384_u32;
    let lies = [
        ("png 2^31", lying_png(0x7FFF_FFFF, 0x7FFF_FFFF)),
        ("png above 2^31", lying_png(0x8000_0001, 0x8000_0001)),
        ("png zero", lying_png(0, 5)),
        ("png as large as allowed", lying_png(side, side)),
        ("jpeg", patched("rgb444.jpg", &[(baseline, &[0xFF; 4])])),
        ("jpeg as large as allowed", patched("rgb444.jpg", &[(baseline, &[0x40, 0, 0x40, 0])])),
        ("jpeg zero", patched("rgb444.jpg", &[(baseline, &[0; 4])])),
        ("progressive jpeg", patched("progressive.jpg", &[(progressive, &[0x40, 0, 0x40, 0])])),
        ("gif", patched("palette.gif", &[(6, &[0xFF; 4])])),
        ("bmp", patched("rgb.bmp", &[(18, &huge), (22, &huge)])),
        ("bmp as large as allowed", patched("rgb.bmp", &[(18, &side.to_le_bytes()), (22, &side.to_le_bytes())])),
        ("bmp negative", patched("rgb.bmp", &[(18, &(-5i32).to_le_bytes())])),
        ("tiff", lying_tiff()),
        ("webp", patched("lossy_alpha.webp", &[(24, &[0xFF; 6])])),
        ("webp longer than its file", patched("lossy.webp", &[(4, &[0xFF; 4])])),
    ];
    for (why, bytes) in lies {
        let start = Instant::now();
        refused(decode(&bytes, "some.jpg"), why);
        assert!(start.elapsed() < Duration::from_secs(2), "{why}: {:?}", start.elapsed());
    }
    if let Some(peak) = peak_memory() {
        assert!(peak < 400 << 20, "{} MiB", peak >> 20);
    }
}

/// A TIFF whose width and height tags (256 and 257) claim 2³¹.
fn lying_tiff() -> Vec<u8> {
    let bytes = fs::read(golden("files/rgb.tif")).unwrap();
    let entry = |tag: u8| bytes.windows(4).position(|w| w[..2] == [tag, 1] && (w[2..] == [3, 0] || w[2..] == [4, 0])).unwrap();
    let value = [4, 0, 1, 0, 0, 0, 0, 0, 0, 0x80];
    patched("rgb.tif", &[(entry(0) + 2, &value), (entry(1) + 2, &value)])
}

#[test]
fn what_is_no_picture_is_said_to_be_none() {
    assert!(refused(decode(b"", "some.jpg"), "empty").ends_with("found an empty file"));
    assert!(refused(decode(b"qoif and more of it, for a while", "some.jpg"), "qoi").contains("Qoi"));
    refused(decode(&[0xFF, 0xD8, 0xFF], "some.jpg"), "three bytes");
    let folder = tempfile::tempdir().unwrap();
    assert!(refused(read(folder.path()), "folder").contains("found a folder or a device"));
    let missing = folder.path().join("missing.png");
    assert!(matches!(read(&missing), Err(Error::Io { .. })));
    assert!(matches!(list(&missing), Err(Error::Io { .. })));
}

#[test]
fn noise_behind_a_good_start_neither_panics_nor_hangs() {
    let mut generator = rand_pcg::Pcg32::seed_from_u64(1);
    let mut random = move |below: usize| generator.random_range(0..below);
    let start = Instant::now();
    let mut read_anyway = 0;
    for file in list(golden("files")).unwrap() {
        let whole = fs::read(&file).unwrap();
        for _ in 0..40 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random(5) {
                let reach = if random(2) == 0 { bytes.len() } else { bytes.len().min(80) };
                let at = random(reach);
                bytes[at] = [0, 0xFF, random(256) as u8][random(3)];
            }
            read_anyway += usize::from(decode(&bytes, "some.jpg").is_ok());
        }
    }
    assert!(read_anyway > 0);
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn the_content_tells_the_format_not_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let (text, png) = (folder.path().join("text.jpg"), folder.path().join("png.jpg"));
    fs::copy(golden("files/rgb.png"), &png).unwrap();
    assert_eq!(read(&png).unwrap(), decoded("rgb_png"));
    fs::write(&text, "No picture, but a sentence.").unwrap();
    let said = refused(read(&text), "text");
    assert!(said.starts_with(&text.display().to_string()) && said.contains("expected a JPEG, PNG, WebP, BMP, GIF or TIFF"), "{said}");
}

#[test]
fn a_folder_lists_its_pictures_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let none = list(folder.path()).expect_err("empty folder").to_string();
    assert!(none.contains("no pictures in this folder"), "{none}");
    fs::create_dir(at("sub.png")).unwrap();
    for name in ["b.JPG", "a.webp", "c.tiff", "notes.txt", ".hidden.png", "png"] {
        fs::write(at(name), b"").unwrap();
    }
    assert_eq!(list(folder.path()).unwrap(), [at("a.webp"), at("b.JPG"), at("c.tiff")]);
    assert_eq!(list(at("notes.txt")).unwrap(), [at("notes.txt")]);
}

#[test]
fn written_pictures_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let image = decoded("scene");
    write(at("a.png"), &image).unwrap();
    assert_eq!(read(at("a.png")).unwrap(), image);
    write(at("a.JPG"), &RgbImage::from_pixel(40, 30, image::Rgb([10, 200, 90]))).unwrap();
    assert!(read(at("a.JPG")).unwrap().pixels().all(|p| p.0[0].abs_diff(10) < 3 && p.0[1].abs_diff(200) < 3));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left behind");
    assert!(matches!(write(at("a.gif"), &image), Err(Error::Usage(_))));
    assert!(matches!(write(at("no/such/folder.png"), &image), Err(Error::Io { .. })));
    fs::create_dir(at("taken.png")).unwrap();
    assert!(matches!(write(at("taken.png"), &image), Err(Error::Io { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "a failed write leaves nothing behind");
}
