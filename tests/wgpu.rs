//! What only the wgpu backend has: devices and buffers of the caller's, absence of any adapter.
#![cfg(feature = "wgpu")]

mod common;

use common::data::{self, DTYPES, Kind};
use cosmine::spec::{Cosine, Histogram, InfoNce, Lists, Metric, NonFinite, Positives, TopK};
use cosmine::wgpu::wgpu::{self, BufferUsages};
use cosmine::wgpu::{GradientBuffers, Layout, handles, matrix, open, open_through};
use cosmine::{Device, Dtype, Error, Limits, Matrix, Rows};

/// A device of the test's own; nothing where there is none and none is required.
fn device_and_queue() -> Option<(wgpu::Device, wgpu::Queue)> {
    instance_and_device().map(|(_, device, queue)| (device, queue))
}

/// The same with what it was opened through.
fn instance_and_device() -> Option<(wgpu::Instance, wgpu::Device, wgpu::Queue)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()));
    let required = common::required().iter().any(|name| name == "wgpu");
    assert!(adapter.is_ok() || !required, "COSMINE_REQUIRE names wgpu: {adapter:?}");
    // The least limits and no features: what everybody's device has.
    let descriptor = wgpu::DeviceDescriptor::default();
    let (device, queue) = pollster::block_on(adapter.ok()?.request_device(&descriptor)).unwrap();
    Some((instance, device, queue))
}

fn buffer(device: &wgpu::Device, bytes: u64, usage: BufferUsages) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false })
}

const ALL: BufferUsages = BufferUsages::STORAGE.union(BufferUsages::COPY_SRC).union(BufferUsages::COPY_DST);

fn all_pairs(queries: usize, keys: usize) -> Lists {
    Lists::from_rows((0..queries).map(|_| 0..keys))
}

/// The bytes of rows that begin at `offset_bytes` and lie `stride_bytes` apart, with 0xAB between them.
fn spread(rows: &Matrix, offset_bytes: usize, stride_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0xAB; (offset_bytes + rows.rows() * stride_bytes + 64).next_multiple_of(4)];
    for row in 0..rows.rows() {
        let source = rows.row_bytes(row);
        bytes[offset_bytes + row * stride_bytes..][..source.len()].copy_from_slice(source);
    }
    bytes
}

#[test]
fn rows_in_the_callers_buffer_score_as_rows_of_the_host() {
    let Some((device, queue)) = device_and_queue() else { return };
    let cosmine = open(&device, &queue, Limits::default()).unwrap();
    assert!(cosmine.is_canonical());
    for dtype in DTYPES {
        for (dim, offset, gap) in [(33, 0, 0), (33, 3, 1), (64, 70, 5), (7, 129, 2)] {
            let queries = data::rows(Kind::Gaussian, 5, dim, dtype, 1);
            let keys = data::rows(Kind::Clustered, 19, dim, dtype, 2);
            let (offset_bytes, stride_bytes) = (offset * dtype.bytes(), (dim + gap) * dtype.bytes());
            let bytes = spread(&keys, offset_bytes, stride_bytes);
            let raw = buffer(&device, bytes.len() as u64, ALL);
            queue.write_buffer(&raw, 0, &bytes);
            let layout =
                Layout::new(dtype, 19, dim).offset_bytes(offset_bytes as u64).row_stride_bytes(stride_bytes as u64);
            let held = matrix(&cosmine, &raw, layout).unwrap();
            let pairs = all_pairs(5, 19);
            let score = |device: &Device, keys: &dyn Rows| {
                device.score_pairs(Metric::Cosine, NonFinite::Error, &pairs, &queries, keys).unwrap()
            };
            let expected = score(&Device::cpu(), &keys);
            assert_eq!(score(&cosmine, &held), expected, "{dtype} {dim} {offset} {gap}");
            // Another device has the rows brought to the host.
            assert_eq!(score(&Device::cpu(), &held), expected, "{dtype} {dim} {offset} {gap}");
        }
    }
}

#[test]
fn updates_leave_what_lies_between_the_rows() {
    let Some((device, queue)) = device_and_queue() else { return };
    let cosmine = open(&device, &queue, Limits::default()).unwrap();
    let rows = data::rows(Kind::Gaussian, 4, 5, Dtype::F16, 1);
    let bytes = spread(&rows, 6, 14);
    let raw = buffer(&device, bytes.len() as u64, ALL);
    queue.write_buffer(&raw, 0, &bytes);
    let layout = Layout::new(Dtype::F16, 4, 5).offset_bytes(6).row_stride_bytes(14);
    let mut held = matrix(&cosmine, &raw, layout).unwrap();
    let fresh = data::rows(Kind::Gaussian, 2, 5, Dtype::F16, 9);
    held.update(1, &fresh).unwrap();
    let found = held.read(0..4).unwrap();
    for (row, expected) in [(0, rows.row(0)), (1, fresh.row(0)), (2, fresh.row(1)), (3, rows.row(3))] {
        assert_eq!(found.row(row), expected);
    }
    // All bytes of the buffer, as rows of one long row.
    let all = matrix(&cosmine, &raw, Layout::new(Dtype::F16, 1, bytes.len() / 2)).unwrap();
    let all = all.read(0..1).unwrap();
    let mut expected = bytes;
    for (row, source) in [(1, 0), (2, 1)] {
        expected[6 + row * 14..][..10].copy_from_slice(fresh.row_bytes(source));
    }
    assert_eq!(all.row_bytes(0), expected);
}

#[test]
fn buffers_that_do_not_fit_are_errors() {
    let Some((device, queue)) = device_and_queue() else { return };
    let cosmine = open(&device, &queue, Limits::default()).unwrap();
    let raw = buffer(&device, 4096, ALL);
    let layout = Layout::new(Dtype::F32, 16, 64);
    assert!(matrix(&cosmine, &raw, layout).is_ok());
    let wrong = [
        layout.offset_bytes(4),
        layout.offset_bytes(2),
        layout.row_stride_bytes(257),
        layout.row_stride_bytes(u64::MAX - 3),
        layout.offset_bytes(u64::MAX - 3),
        Layout::new(Dtype::F32, usize::MAX, 64),
        Layout::new(Dtype::F32, 1, 0),
        Layout::new(Dtype::F32, 1, usize::MAX),
    ];
    for layout in wrong {
        let error = matrix(&cosmine, &raw, layout).unwrap_err();
        assert!(matches!(error, Error::Shape { argument: "buffer", .. }), "{layout:?}: {error}");
    }
    let unbindable = buffer(&device, 4096, BufferUsages::COPY_DST);
    assert!(matches!(matrix(&cosmine, &unbindable, layout), Err(Error::Spec { argument: "buffer", .. })));
    assert!(matches!(matrix(&Device::cpu(), &raw, layout), Err(Error::Unsupported { .. })));
    assert!(handles(&Device::cpu()).is_none());
    // A buffer of another device's is an error of the operation that meets it; the device stays.
    let (other, _) = device_and_queue().unwrap();
    let foreign = matrix(&cosmine, &buffer(&other, 4096, ALL), layout).unwrap();
    let own = matrix(&cosmine, &raw, layout).unwrap();
    let score = |keys: &dyn Rows| {
        cosmine.score_pairs(
            Metric::Cosine,
            NonFinite::Error,
            &Lists::from_rows([[0_usize]]),
            &own.read(0..1).unwrap(),
            keys,
        )
    };
    let error = score(&foreign).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert_eq!(score(&own).unwrap(), [0.0]);
}

/// Every verb on a device that its owner destroys says that it is lost, and so do rows that stay on it.
///
/// # Panics
/// Where that is not so.
fn lose(device: &wgpu::Device, cosmine: &Device) {
    let rows = data::rows(Kind::Gaussian, 3, 8, Dtype::F32, 1);
    let held = cosmine.upload(&rows).unwrap();
    let pairs = all_pairs(3, 3);
    let answers = || -> [Result<(), Error>; 6] {
        let score = cosmine.score_pairs(Metric::Dot, NonFinite::Error, &pairs, &rows, &held);
        [
            score.map(|scores| assert_eq!(scores.len(), 9)),
            cosmine.cosine(&Cosine::new(), &rows, &rows).map(drop),
            cosmine.top_k(&TopK::new(2), &rows, &rows).map(drop),
            cosmine.histogram(&Histogram::new(-1.0, 1.0, 4), &rows, &rows).map(drop),
            cosmine.info_nce_grad(&InfoNce::new(0.1), &rows, &rows, None).map(drop),
            held.read(0..1).map(drop),
        ]
    };
    answers().into_iter().for_each(|answer| answer.unwrap());
    device.destroy();
    for error in answers().into_iter().chain(answers()).map(Result::unwrap_err) {
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
    }
    assert!(matches!(cosmine.upload(&rows), Err(Error::DeviceLost { .. })));
}

#[test]
fn loss_of_the_callers_device_is_an_error() {
    let Some((device, queue)) = device_and_queue() else { return };
    lose(&device, &open(&device, &queue, Limits::default()).unwrap());
    in_a_process_with(&[], "child_that_a_panic_ends");
}

/// From here on a panic ends the process, caught or not, as `panic = "abort"` has it.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::abort();
    }));
}

#[test]
#[ignore = "run by loss_of_the_callers_device_is_an_error in a process of its own"]
fn child_that_a_panic_ends() {
    abort_on_panic();
    let (instance, device, queue) = instance_and_device().unwrap();
    lose(&device, &open_through(&instance, &device, &queue, Limits::default()).unwrap());
    let (device, queue) = device_and_queue().unwrap();
    lose(&device, &open(&device, &queue, Limits::default()).unwrap());
}

/// A driver that loses its device while it is waited for: Mesa's software driver behind tests/lost_driver.c.
#[test]
#[cfg(target_os = "linux")]
fn loss_by_the_driver_is_an_error() {
    let Some(_) = device_and_queue() else { return };
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (library, manifest) = (folder.join("liblost_driver.so"), folder.join("lost_driver.json"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lost_driver.c");
    let built =
        std::process::Command::new("cc").args(["-shared", "-fPIC", source, "-ldl", "-o"]).arg(&library).status();
    assert!(built.unwrap().success());
    let icd = serde_json::json!({
        "file_format_version": "1.0.0",
        "ICD": { "library_path": library, "api_version": "1.1.230" },
    });
    std::fs::write(&manifest, icd.to_string()).unwrap();
    let manifest = manifest.to_str().unwrap();
    // While it is opened, in the first call, later.
    for waits in ["0", "1", "5", "40"] {
        for opened in ["open", "open_through", "Device::open"] {
            let variables = [
                ("VK_DRIVER_FILES", manifest),
                ("VK_ICD_FILENAMES", manifest),
                ("COSMINE_LOSE_AFTER", waits),
                ("COSMINE_OPENED", opened),
            ];
            in_a_process_with(&variables, "child_whose_driver_loses_the_device");
        }
    }
}

#[test]
#[ignore = "run by loss_by_the_driver_is_an_error in a process of its own"]
fn child_whose_driver_loses_the_device() {
    let rows = data::rows(Kind::Gaussian, 40, 8, Dtype::F32, 1);
    let (instance, device, queue) = instance_and_device().unwrap();
    let opened = match std::env::var("COSMINE_OPENED").unwrap().as_str() {
        // The one where wgpu panics.
        "open" => open(&device, &queue, Limits::default()),
        how => {
            abort_on_panic();
            match how {
                "open_through" => open_through(&instance, &device, &queue, Limits::default()),
                _ => Device::open("wgpu", Limits::default()),
            }
        }
    };
    let cosmine = match opened {
        Err(Error::DeviceLost { .. }) => return,
        opened => opened.unwrap(),
    };
    let mut lost = 0;
    for call in 0..100 {
        let answer = match call % 2 {
            0 => cosmine.top_k(&TopK::new(2), &rows, &rows).map(drop),
            _ => cosmine.info_nce_grad(&InfoNce::new(0.1), &rows, &rows, None).map(drop),
        };
        match answer {
            Err(Error::DeviceLost { .. }) => lost += 1,
            Ok(()) if lost == 0 => {}
            other => panic!("after {lost} losses: {other:?}"),
        }
    }
    assert!(lost > 50, "{lost}");
}

/// The f32 elements of a buffer.
fn elements(cosmine: &Device, raw: &wgpu::Buffer) -> Vec<f32> {
    let len = raw.size() as usize / 4;
    matrix(cosmine, raw, Layout::new(Dtype::F32, 1, len)).unwrap().read(0..1).unwrap().row(0)
}

#[test]
fn results_in_the_callers_buffers_are_those_of_the_host() {
    let Some((device, queue)) = device_and_queue() else { return };
    let cosmine = open(&device, &queue, Limits::default()).unwrap();
    let queries = data::rows(Kind::Gaussian, 70, 20, Dtype::F16, 1);
    let keys = data::rows(Kind::Clustered, 90, 20, Dtype::F16, 2);
    let negatives = data::rows(Kind::Gaussian, 30, 20, Dtype::F16, 3);
    let filled = |len: usize| {
        let raw = buffer(&device, len as u64 * 4, ALL);
        queue.write_buffer(&raw, 0, bytemuck::cast_slice(&vec![7.0_f32; len]));
        raw
    };
    // What lies around the scores stays.
    let out = filled(70 * 90 + 5);
    cosmine::wgpu::cosine(&cosmine, &Cosine::new(), &queries, &keys, &out, 12).unwrap();
    let found = elements(&cosmine, &out);
    assert_eq!(found[3..70 * 90 + 3], cosmine.cosine(&Cosine::new(), &queries, &keys).unwrap());
    assert!(found[..3].iter().chain(&found[70 * 90 + 3..]).all(|element| *element == 7.0));

    let spec = InfoNce::new(0.1).positives(Positives::Aligned);
    let (loss, expected) = cosmine.info_nce_grad(&spec, &queries, &keys, Some(&negatives)).unwrap();
    let buffers = [filled(70 * 20), filled(90 * 20 + 1), filled(30 * 20)];
    let out = GradientBuffers { queries: &buffers[0], keys: &buffers[1], negatives: Some(&buffers[2]) };
    let grad = |negatives, out| cosmine::wgpu::info_nce_grad(&cosmine, &spec, &queries, &keys, negatives, out);
    let (found, temperature) = grad(Some(&negatives), out).unwrap();
    assert_eq!((found.loss, temperature), (loss.loss, expected.temperature));
    assert_eq!(elements(&cosmine, &buffers[0]), expected.queries);
    let found = elements(&cosmine, &buffers[1]);
    assert_eq!((&found[..90 * 20], found[90 * 20]), (&expected.keys[..], 7.0));
    assert_eq!(elements(&cosmine, &buffers[2]), expected.negatives);

    // Too small, missing, not to be written to, off an element.
    let faults = [
        grad(Some(&negatives), GradientBuffers { queries: &buffers[2], ..out }).unwrap_err(),
        grad(Some(&negatives), GradientBuffers { negatives: None, ..out }).unwrap_err(),
        cosmine::wgpu::cosine(&cosmine, &Cosine::new(), &queries, &keys, &buffers[0], 0).unwrap_err(),
        cosmine::wgpu::cosine(&cosmine, &Cosine::new(), &queries, &keys, &filled(70 * 91), 2).unwrap_err(),
    ];
    for fault in faults {
        assert!(matches!(fault, Error::Shape { .. }), "{fault}");
    }
    let raw = buffer(&device, 70 * 90 * 4, BufferUsages::STORAGE);
    let fault = cosmine::wgpu::cosine(&cosmine, &Cosine::new(), &queries, &keys, &raw, 0).unwrap_err();
    assert!(matches!(fault, Error::Spec { .. }), "{fault}");
}

/// Calls of every kind, from several threads on one device, give what they give alone, and keep no more memory the longer
/// they go on. `COSMINE_CALLS` sets how many each thread makes.
#[test]
fn threads_share_a_device() {
    let Ok(cosmine) = Device::open("wgpu", Limits::default()) else { return };
    let calls: usize = std::env::var("COSMINE_CALLS").ok().map_or(24, |text| text.parse().unwrap());
    let queries = data::rows(Kind::Gaussian, 24, 20, Dtype::F32, 1);
    let keys = data::rows(Kind::Clustered, 120, 20, Dtype::F32, 2);
    let held = cosmine.upload(&keys).unwrap();
    let call = |kind: usize| -> Vec<f32> {
        match kind % 5 {
            0 => cosmine.cosine(&Cosine::new(), &queries, &keys).unwrap(),
            1 => cosmine.top_k(&TopK::new(5), &queries, &held).unwrap().scores,
            2 => {
                let counts = cosmine.histogram(&Histogram::new(-1.0, 1.0, 9), &queries, &held).unwrap();
                counts.counts.iter().map(|count| *count as f32).collect()
            }
            3 => cosmine.info_nce_grad(&InfoNce::new(0.1), &queries, &keys, None).unwrap().1.keys,
            _ => cosmine.score_pairs(Metric::Dot, NonFinite::Error, &all_pairs(24, 120), &queries, &keys).unwrap(),
        }
    };
    let expected: Vec<Vec<f32>> = (0..5).map(call).collect();
    let round = || {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (call, expected) = (&call, &expected);
                scope.spawn(move || {
                    (0..calls).for_each(|step| assert_eq!(call(thread + step), expected[(thread + step) % 5]));
                });
            }
        });
        let (device, _) = handles(&cosmine).unwrap();
        device.generate_allocator_report().map(|report| report.total_reserved_bytes)
    };
    let warm = round();
    let (second, third) = (round(), round());
    assert!(third <= second.max(warm), "{warm:?}, {second:?}, {third:?} bytes");
}

/// Runs a test of this file, marked as ignored, in a process with other variables.
fn in_a_process_with(variables: &[(&str, &str)], test: &str) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command.args([test, "--exact", "--ignored"]).envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[cfg(target_os = "linux")]
fn without_a_driver_the_error_says_what_to_install() {
    let nothing = [("VK_DRIVER_FILES", "/nonexistent.json"), ("VK_ICD_FILENAMES", "/nonexistent.json")];
    in_a_process_with(&nothing, "child_without_a_driver");
    in_a_process_with(&[("WGPU_ADAPTER_NAME", "no adapter is called so")], "child_without_a_driver");
}

#[test]
#[ignore = "run by without_a_driver_the_error_says_what_to_install in a process of its own"]
fn child_without_a_driver() {
    let error = Device::open("wgpu", Limits::default()).unwrap_err();
    assert!(matches!(error, Error::NoDevice { .. }), "{error}");
    assert!(error.to_string().contains("mesa-vulkan-drivers"), "{error}");
    let listed = Device::list();
    assert!(listed.iter().any(|info| info.name == "wgpu" && info.limits.is_none()), "{listed:?}");
}

#[test]
fn adapters_are_counted() {
    let Some(_) = device_and_queue() else { return };
    assert!(Device::open("wgpu:0", Limits::default()).unwrap().info().description.contains("driver"));
    let error = Device::open("wgpu:4000", Limits::default()).unwrap_err();
    assert!(matches!(error, Error::NoDevice { .. }) && error.to_string().contains("counted from 0"), "{error}");
    assert!(matches!(Device::open("wgpu:-1", Limits::default()), Err(Error::Spec { .. })));
}
