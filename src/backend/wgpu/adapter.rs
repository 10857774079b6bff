//! Which adapter is opened, and what is asked of it.

use wgpu::{Adapter, AdapterInfo, DeviceType, Features};

use crate::backend::gpu::Offers;
use crate::backend::gpu::source::Language;
use crate::error::{Error, Result};

/// Names a part of the wanted adapter's name, in any case; the others are then not seen.
const ADAPTER_NAME: &str = "WGPU_ADAPTER_NAME";
/// `on`: subgroups may multiply matrices, where the adapter does so in f32. No adapter that does has run it yet.
const MATRICES: &str = "COSMINE_SUBGROUP_MATRICES";
/// Where there is nothing to open.
const INSTALL: &str = "install your GPU's Vulkan driver (Metal and Direct3D 12 come with their systems), or Mesa's \
    software driver: on Debian and Ubuntu `apt-get install mesa-vulkan-drivers libvulkan1`";
/// Storage buffers that the kernels are given, at most; what WebGPU promises everywhere.
const BINDINGS: u32 = 8;

/// Opens the adapter of a number, in the order of preference: discrete GPUs, integrated ones, virtual ones, software.
pub(crate) fn open(name: &str, index: usize) -> Result<(wgpu::Instance, wgpu::Device, wgpu::Queue, Offers)> {
    let absent = |reason: String| Error::NoDevice { device: name.to_owned(), reason };
    let (instance, adapters) = adapters();
    let found = adapters.len();
    let wanted = std::env::var(ADAPTER_NAME);
    let Some(adapter) = adapters.into_iter().nth(index) else {
        let among =
            wanted.map_or_else(|_| String::new(), |wanted| format!(" whose name holds {ADAPTER_NAME}={wanted}"));
        let reason = match found {
            0 => format!("no adapter{among} was found; {INSTALL}"),
            _ => format!("there is no adapter {index}{among}; they are counted from 0 and there are {found}"),
        };
        return Err(absent(reason));
    };
    let matrices = std::env::var(MATRICES).is_ok_and(|value| value == "on") && multiplies_matrices(&adapter);
    let (features, experimental) = match matrices {
        // SAFETY: what is experimental may misbehave where it is used against its rules: the one kernel that does is
        // this crate's own, checked by naga, and multiplies matrices of the shape that the adapter named.
        true => (Features::EXPERIMENTAL_COOPERATIVE_MATRIX, unsafe { wgpu::ExperimentalFeatures::enabled() }),
        false => (Features::empty(), wgpu::ExperimentalFeatures::disabled()),
    };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("cosmine"),
        required_features: adapter.features() & wanted_features() | features,
        experimental_features: experimental,
        required_limits: adapter.limits(),
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    let opened = pollster::block_on(adapter.request_device(&descriptor));
    let (device, queue) = opened.map_err(|error| absent(format!("{}: {error}", describe(&adapter.get_info()))))?;
    check(&device).map_err(absent)?;
    let offers = Offers { matrices, ..offers(&device) };
    Ok((instance, device, queue, offers))
}

/// Whether subgroups of 32 threads multiply matrices of 8 × 8 numbers of f32, and the tile's products have room.
fn multiplies_matrices(adapter: &Adapter) -> bool {
    let info = adapter.get_info();
    let subgroups = info.subgroup_min_size == 32 && info.subgroup_max_size == 32;
    let room = adapter.limits().max_compute_workgroup_storage_size >= 32 << 10;
    let offered = adapter.features().contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    subgroups && room && offered && adapter.cooperative_matrix_properties().iter().any(is_known)
}

/// Whether matrices are of the shape and type that the kernels multiply.
fn is_known(shape: &wgpu::CooperativeMatrixProperties) -> bool {
    let all_f32 = [shape.ab_type, shape.cr_type].iter().all(|of| *of == wgpu::CooperativeScalarType::F32);
    all_f32 && [shape.m_size, shape.n_size, shape.k_size] == [8; 3]
}

/// The adapters that can be opened, the preferred first, and what they are opened through.
fn adapters() -> (wgpu::Instance, Vec<Adapter>) {
    let descriptor = wgpu::InstanceDescriptor {
        flags: wgpu::InstanceFlags::empty().with_env(),
        ..wgpu::InstanceDescriptor::new_without_display_handle_from_env()
    };
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    if let Ok(wanted) = std::env::var(ADAPTER_NAME) {
        let wanted = wanted.to_lowercase();
        adapters.retain(|adapter| adapter.get_info().name.to_lowercase().contains(&wanted));
    }
    adapters.sort_by_key(|adapter| preference(adapter.get_info().device_type));
    (instance, adapters)
}

fn preference(kind: DeviceType) -> u8 {
    match kind {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

/// Features that kernels or measurements use where they are offered.
fn wanted_features() -> Features {
    Features::SHADER_F16 | Features::SHADER_INT64 | Features::SUBGROUP | Features::TIMESTAMP_QUERY
}

/// Whether a device has what every kernel needs; says what it lacks.
pub(crate) fn check(device: &wgpu::Device) -> std::result::Result<(), String> {
    let limits = device.limits();
    let least = wgpu::Limits::downlevel_defaults();
    let needs = [
        ("max_storage_buffers_per_shader_stage", limits.max_storage_buffers_per_shader_stage, BINDINGS),
        ("max_compute_invocations_per_workgroup", limits.max_compute_invocations_per_workgroup, 256),
        ("max_compute_workgroup_size_x", limits.max_compute_workgroup_size_x, 256),
        ("max_compute_workgroup_storage_size", limits.max_compute_workgroup_storage_size, 16 << 10),
        (
            "max_compute_workgroups_per_dimension",
            limits.max_compute_workgroups_per_dimension,
            least.max_compute_workgroups_per_dimension,
        ),
    ];
    let lacking = needs.iter().find(|(_, has, needed)| has < needed);
    match lacking {
        None => Ok(()),
        Some((limit, has, needed)) => Err(format!("the limit {limit} is {has} and {needed} is needed")),
    }
}

/// What a device can do, as far as plans ask.
pub(crate) fn offers(device: &wgpu::Device) -> Offers {
    let (limits, features, info) = (device.limits(), device.features(), device.adapter_info());
    Offers {
        language: Language::Wgsl,
        binding_bytes: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
        offset_bytes: u64::from(limits.min_storage_buffer_offset_alignment),
        bindings: limits.max_storage_buffers_per_shader_stage,
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        shared_bytes: 0,
        workgroup_threads: limits.max_compute_invocations_per_workgroup,
        subgroup: match features.contains(Features::SUBGROUP) {
            true => info.subgroup_min_size,
            false => 0,
        },
        lanes: lanes(&features, &info),
        // The adapter knows; a device alone does not.
        matrices: false,
        f16: features.contains(Features::SHADER_F16),
        matrix_unit: 0,
        scan_bytes: false,
        fused_dim: 0,
        processors: 1,
    }
}

/// Lanes of a software adapter's subgroups, where they always run together and read memory 64 bits at a time.
fn lanes(features: &Features, info: &AdapterInfo) -> u32 {
    let needed = Features::SUBGROUP | Features::SHADER_INT64;
    let software = info.device_type == DeviceType::Cpu && features.contains(needed);
    if software && info.subgroup_min_size == info.subgroup_max_size { info.subgroup_min_size } else { 0 }
}

/// An adapter in words.
pub(crate) fn describe(info: &AdapterInfo) -> String {
    let kind = match info.device_type {
        DeviceType::DiscreteGpu => "discrete GPU",
        DeviceType::IntegratedGpu => "integrated GPU",
        DeviceType::VirtualGpu => "virtual GPU",
        DeviceType::Cpu => "software on the processor, no GPU",
        DeviceType::Other => "device of unknown kind",
    };
    let driver = [info.driver.as_str(), info.driver_info.as_str()].join(" ");
    format!("{}, {kind}, {} driver {}", info.name, info.backend, driver.trim())
}
