//! The queue by itself, on whatever adapter is there.

use super::*;
use crate::backend::gpu::{Kernel, Launch, Slice};

/// The first adapter, or nothing where there is none and none is required.
fn open() -> Option<Wgpu> {
    let required = std::env::var("COSMINE_REQUIRE").unwrap_or_default();
    match Wgpu::open("wgpu", 0, Limits::default()) {
        Ok(wgpu) => Some(wgpu),
        Err(error) if required.split(',').any(|name| name.trim() == "wgpu") => panic!("{error}"),
        Err(_) => None,
    }
}

fn whole<'a>(buffer: &'a memory::Buffer, bytes: u64) -> Slice<'a, WgpuQueue> {
    Slice { buffer, offset_bytes: 0, bytes }
}

/// `out[i] = in[i] · factor + group`, for each of `len` words.
fn multiply() -> Kernel {
    Kernel { file: "queue_test", entry: "multiply", constants: vec![("ADDED", 1)], threads: [64, 1] }
}

#[test]
fn steps_see_what_the_steps_before_them_wrote() {
    let Some(wgpu) = open() else { return };
    println!("{}", wgpu.description());
    let words: Vec<u32> = (0..1000).collect();
    let found = wgpu.call(|queue| {
        let a = queue.allocate(4000, "a")?;
        let b = queue.allocate(4000, "b")?;
        queue.write(&a, 0, bytemuck::cast_slice(&words))?;
        // More launches than one submission takes, with a write in between.
        for step in 0..101 {
            let (from, to) = if step % 2 == 0 { (&a, &b) } else { (&b, &a) };
            queue.launch(&Launch {
                kernel: &multiply(),
                groups: [16, 1, 1],
                parameters: &[1000, 1],
                buffers: &[whole(from, 4000), whole(to, 4000)],
                first_group: None,
            })?;
        }
        queue.write(&b, 8, bytemuck::cast_slice(&[77_u32]))?;
        queue.copy(
            Slice { buffer: &b, offset_bytes: 0, bytes: 256 },
            Slice { buffer: &b, offset_bytes: 512, bytes: 256 },
        )?;
        queue.clear(Slice { buffer: &b, offset_bytes: 0, bytes: 4 })?;
        let mut out = vec![0_u32; 1000];
        queue.read(&b, 0, bytemuck::cast_slice_mut(&mut out))?;
        Ok(out)
    });
    let mut expected: Vec<u32> = (0..1000).map(|word| word + 101).collect();
    expected[2] = 77;
    expected.copy_within(0..64, 128);
    expected[0] = 0;
    assert_eq!(found.unwrap(), expected);
}
