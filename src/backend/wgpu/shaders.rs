//! Every shader in every variant, without a device: valid with no more than the variant's own capabilities, within the
//! limits that its device promises, and translated to what Vulkan, Metal and Direct3D take.

use naga::back::{hlsl, msl, spv};
use naga::front::wgsl;
use naga::proc::Layouter;
use naga::valid::{
    Capabilities, GlobalUse, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator,
};
use naga::{AddressSpace, Module, ShaderStage};

use super::stream::PARAMETER_BYTES;
use crate::backend::gpu::source::Language;
use crate::backend::gpu::{Kernel, Offers, kernels};

/// The least that is opened: what WebGPU promises everywhere.
const LEAST: Offers = Offers {
    language: Language::Wgsl,
    binding_bytes: 128 << 20,
    offset_bytes: 256,
    bindings: 8,
    shared_bytes: 0,
    workgroup_bytes: 16 << 10,
    workgroup_threads: 256,
    subgroup: 0,
    lanes: 0,
    matrices: false,
    f16: false,
    matrix_unit: 0,
    scan_bytes: false,
    fused_dim: 0,
    processors: 1,
};

/// Devices that differ in what plans ask.
fn devices() -> Vec<Offers> {
    let more = |subgroup, f16, workgroup_bytes| Offers {
        subgroup,
        f16,
        workgroup_bytes,
        workgroup_threads: 1024,
        bindings: 32,
        binding_bytes: 1 << 31,
        ..LEAST
    };
    vec![
        LEAST,
        more(0, true, 32 << 10),
        more(8, true, 32 << 10),
        Offers { lanes: 8, ..more(8, true, 32 << 10) },
        more(32, false, 48 << 10),
        more(32, true, 32 << 10),
        Offers { matrices: true, ..more(32, true, 32 << 10) },
        more(64, true, 64 << 10),
    ]
}

/// The variants of all devices, each once with the weakest device that asks for it.
fn variants() -> Vec<(Offers, Kernel)> {
    let mut found: Vec<(Offers, Kernel)> = Vec::new();
    for offers in devices() {
        let own = [("multiply", 64), ("spin", 64)].map(|(entry, threads)| Kernel {
            file: "queue_test",
            entry,
            constants: vec![("ADDED", 1)],
            threads: [threads, 1],
        });
        for kernel in kernels(&offers).into_iter().chain(own).map(|kernel| kernel.for_device(&offers)) {
            if !found.iter().any(|(_, other)| *other == kernel) {
                found.push((offers.clone(), kernel));
            }
        }
    }
    found
}

fn capabilities(offers: &Offers) -> Capabilities {
    let mut capabilities = Capabilities::empty();
    capabilities.set(Capabilities::SHADER_FLOAT16, offers.f16);
    capabilities.set(Capabilities::SUBGROUP, offers.subgroup > 0);
    capabilities.set(Capabilities::SHADER_INT64, offers.lanes > 0);
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, offers.matrices);
    capabilities
}

/// The kernel's text as a checked module.
fn validate(offers: &Offers, kernel: &Kernel) -> Result<(Module, ModuleInfo), String> {
    let text = kernel.text(Language::Wgsl);
    let module = wgsl::parse_str(&text).map_err(|error| error.emit_to_string(&text))?;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities(offers));
    if offers.subgroup > 0 {
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator.validate(&module).map_err(|error| error.emit_to_string(&text))?;
    Ok((module, info))
}

/// Whether the kernel asks for no more memory, bindings and threads than the device has.
fn within_limits(offers: &Offers, kernel: &Kernel, module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let index = module.entry_points.iter().position(|point| point.name == kernel.entry);
    let index = index.ok_or("no such entry point")?;
    let info = info.get_entry_point(index);
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).map_err(|error| error.to_string())?;
    let (mut workgroup_bytes, mut bindings) = (0, 0);
    for (handle, variable) in module.global_variables.iter() {
        let bytes = layouter[variable.ty].size;
        match variable.space {
            _ if info[handle] == GlobalUse::empty() => {}
            AddressSpace::WorkGroup => workgroup_bytes += bytes.next_multiple_of(16),
            AddressSpace::Storage { .. } => bindings += 1,
            AddressSpace::Uniform if bytes > PARAMETER_BYTES as u32 => return Err(format!("{bytes} bytes of uniform")),
            _ => {}
        }
    }
    let size = module.entry_points[index].workgroup_size;
    let threads: u32 = size.iter().product();
    let expected = [kernel.threads[0], kernel.threads[1], 1];
    match () {
        () if size != expected => Err(format!("a workgroup of {size:?}, not {expected:?}")),
        () if workgroup_bytes > offers.workgroup_bytes => Err(format!("{workgroup_bytes} bytes of workgroup memory")),
        () if threads > offers.workgroup_threads => Err(format!("{threads} threads")),
        () if bindings > offers.bindings => Err(format!("{bindings} storage bindings")),
        () => Ok(()),
    }
}

/// Translates for each platform; what came out is not empty. Direct3D has no words for matrices of subgroups.
fn translate(kernel: &Kernel, module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let entry = (ShaderStage::Compute, kernel.entry.to_owned());
    let options = spv::Options { lang_version: (1, 3), ..Default::default() };
    let point = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: kernel.entry.to_owned() };
    let words = spv::write_vec(module, info, &options, Some(&point)).map_err(|error| format!("SPIR-V: {error}"))?;
    let options = msl::Options { lang_version: (2, 4), ..Default::default() };
    let point = msl::PipelineOptions { entry_point: Some(entry.clone()), ..Default::default() };
    let (metal, names) =
        msl::write_string(module, info, &options, &point).map_err(|error| format!("Metal: {error}"))?;
    if let Some(Err(error)) = names.entry_point_names.iter().find(|name| name.is_err()) {
        return Err(format!("Metal: {error}"));
    }
    if kernel.constant("MATRICES") == Some(1) {
        return if words.is_empty() || metal.is_empty() { Err("an empty translation".to_owned()) } else { Ok(()) };
    }
    let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_2, ..Default::default() };
    let point = hlsl::PipelineOptions { entry_point: Some(entry) };
    let mut direct = String::new();
    let names = hlsl::Writer::new(&mut direct, &options, &point).write(module, info, None);
    let names = names.map_err(|error| format!("Direct3D: {error}"))?;
    if let Some(Err(error)) = names.entry_point_names.iter().find(|name| name.is_err()) {
        return Err(format!("Direct3D: {error}"));
    }
    match words.is_empty() || metal.is_empty() || direct.is_empty() {
        true => Err("an empty translation".to_owned()),
        false => Ok(()),
    }
}

#[test]
fn every_variant_is_valid_within_limits_and_translates() {
    let variants = variants();
    let faults: Vec<String> = variants
        .iter()
        .filter_map(|(offers, kernel)| {
            let checked = validate(offers, kernel).and_then(|(module, info)| {
                within_limits(offers, kernel, &module, &info)?;
                translate(kernel, &module, &info)
            });
            checked.err().map(|fault| format!("{kernel:?} for {offers:?}:\n{fault}"))
        })
        .collect();
    assert!(faults.is_empty(), "{} of {} variants:\n{}", faults.len(), variants.len(), faults.join("\n"));
}

#[test]
fn a_variant_beyond_its_device_is_found() {
    let kernel = Kernel { file: "queue_test", entry: "multiply", constants: vec![("ADDED", 1)], threads: [512, 1] };
    let (module, info) = validate(&LEAST, &kernel).unwrap();
    let fault = within_limits(&LEAST, &kernel, &module, &info).unwrap_err();
    assert_eq!(fault, "512 threads");
    let kernel = Kernel { constants: Vec::new(), ..kernel };
    assert!(validate(&LEAST, &kernel).is_err());
}
