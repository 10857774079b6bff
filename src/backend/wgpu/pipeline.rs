//! Kernels compiled for the device.

use wgpu::naga::front::wgsl;
use wgpu::naga::valid::{Capabilities, GlobalUse, ValidationFlags, Validator};
use wgpu::naga::{AddressSpace, Module, StorageAccess};

use super::budget::Cost;
use super::context::Context;
use crate::backend::gpu::Kernel;
use crate::backend::gpu::source::Language;
use crate::error::{Error, Result};

/// A storage binding that a kernel uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) index: u32,
    pub(crate) writable: bool,
}

/// A compiled kernel.
pub(crate) struct Pipeline {
    /// The name in errors.
    pub(crate) name: String,
    pub(crate) raw: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    /// Whether it reads its parameters.
    pub(crate) parameters: bool,
    /// The storage bindings that it uses; a file may hold more.
    pub(crate) bindings: Vec<Binding>,
    pub(crate) cost: Cost,
}

impl Pipeline {
    pub(crate) fn compile(context: &Context, kernel: &Kernel) -> Result<Self> {
        let text = kernel.for_device(&context.offers).text(Language::Wgsl);
        let name = format!("kernel `{}` of {}.wgsl", kernel.entry, kernel.file);
        let fault =
            |error: String| Error::Unsupported { device: context.name.clone(), what: format!("{name}: {error}") };
        let module = wgsl::parse_str(&text).map_err(|error| fault(error.emit_to_string(&text)))?;
        let used = used(&module, kernel.entry).map_err(fault)?;
        let (raw, layout) = context.scoped(0, &name, || {
            // SAFETY: the only shaders are this crate's own. Every loop of theirs is bounded by its parameters, so none
            // is without end; everything else stays checked.
            let shader = unsafe {
                context.device.create_shader_module_trusted(
                    wgpu::ShaderModuleDescriptor {
                        label: Some(kernel.entry),
                        source: wgpu::ShaderSource::Wgsl(text.as_str().into()),
                    },
                    wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() },
                )
            };
            let raw = context.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.entry),
                layout: None,
                module: &shader,
                entry_point: Some(kernel.entry),
                // Kernels write their workgroup memory before they read it, as CUDA asks of them.
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            });
            let layout = raw.get_bind_group_layout(0);
            (raw, layout)
        })?;
        let Used { parameters, bindings } = used;
        Ok(Pipeline { name, raw, layout, parameters, bindings, cost: Cost::default() })
    }
}

/// What an entry point uses of its file's bindings.
pub(crate) struct Used {
    pub(crate) parameters: bool,
    pub(crate) bindings: Vec<Binding>,
}

/// Reads a module's bindings.
pub(crate) fn used(module: &Module, entry: &str) -> std::result::Result<Used, String> {
    let index = module.entry_points.iter().position(|point| point.name == entry);
    let index = index.ok_or_else(|| format!("it has no entry point `{entry}`"))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(module);
    let info = info.map_err(|error| error.into_inner().to_string())?;
    let info = info.get_entry_point(index);
    let mut used = Used { parameters: false, bindings: Vec::new() };
    for (handle, variable) in module.global_variables.iter() {
        let Some(binding) = variable.binding.filter(|_| info[handle] != GlobalUse::empty()) else { continue };
        match variable.space {
            AddressSpace::Storage { access } => {
                used.bindings.push(Binding { index: binding.binding, writable: access.contains(StorageAccess::STORE) })
            }
            _ => used.parameters = true,
        }
    }
    Ok(used)
}
