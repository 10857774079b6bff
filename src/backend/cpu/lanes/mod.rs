//! Vector arithmetic: one small trait, one file per instruction set, chosen once when the device opens.
//!
//! Only the innermost loops are written with [`Lanes`]. Everything else is plain Rust that runs inside
//! [`Isa::dispatch`], where the compiler may use the instruction set's vectors.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Rows that one register block covers; packed left sides hold this many rows side by side.
pub(crate) const STRIP: usize = 12;
/// Columns that one register block covers; packed right sides hold this many columns side by side.
pub(crate) const PANEL: usize = 32;

/// Vectors of f32 of one instruction set.
///
/// # Safety
/// Every method may use instructions of the set: call them only inside [`Isa::dispatch`], which runs a task under a
/// set that the processor has.
pub(crate) trait Lanes: Copy + Send + Sync + 'static {
    /// f32 values in a vector.
    const WIDTH: usize;
    /// Rows of the register tile; divides [`STRIP`]. Its columns are two vectors, whose width divides [`PANEL`].
    const TILE_ROWS: usize;
    /// Whether the set multiplies and adds in one instruction.
    const FUSED: bool;
    type Vector: Copy;

    /// # Safety
    /// See the trait.
    unsafe fn splat(value: f32) -> Self::Vector;
    /// # Safety
    /// See the trait; `WIDTH` values must be readable at `from`.
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// # Safety
    /// See the trait; `WIDTH` values must be writable at `to`.
    unsafe fn store(to: *mut f32, vector: Self::Vector);
    /// Adds each value to one of f64.
    /// # Safety
    /// See the trait; `WIDTH` values must be readable and writable at `to`.
    unsafe fn add_to_f64(to: *mut f64, vector: Self::Vector);
    /// Asks for two vectors from an address on; any address will do.
    /// # Safety
    /// See the trait.
    unsafe fn prefetch(from: *const f32);
    /// # Safety
    /// See the trait.
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a · b + c`, fused where the set can.
    /// # Safety
    /// See the trait.
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// # Safety
    /// See the trait.
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger of each pair; `a` where one is NaN.
    /// # Safety
    /// See the trait.
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `value` where `by` is above `floor`, else 0, whatever `value` is.
    /// # Safety
    /// See the trait.
    unsafe fn keep_above(value: Self::Vector, by: Self::Vector, floor: Self::Vector) -> Self::Vector;
    /// 2ⁿ of the n that stands in the lowest bits, −126 to 127.
    /// # Safety
    /// See the trait.
    unsafe fn power_of_two(low_bits: Self::Vector) -> Self::Vector;
    /// One bit for each value of `a`, whether it is at least that of `b`. NaN is not.
    /// # Safety
    /// See the trait.
    unsafe fn at_least(a: Self::Vector, b: Self::Vector) -> u32;
    /// One bit for each of 16 values: whether it lies in `[lo, hi]`. NaN does not.
    /// # Safety
    /// See the trait; 16 values must be readable at `from`.
    unsafe fn within_16(from: *const f32, lo: f32, hi: f32) -> u32;

    /// `WIDTH` integers of 32 bits, or four times as many bytes.
    type Words: Copy;
    /// The largest magnitude of a byte on the signed side of [`Lanes::dot_bytes`].
    const SIGNED_LEVELS: i32;
    /// # Safety
    /// See the trait.
    unsafe fn splat_word(value: i32) -> Self::Words;
    /// # Safety
    /// See the trait; `4 · WIDTH` bytes must be readable at `from`.
    unsafe fn load_bytes(from: *const u8) -> Self::Words;
    /// Adds to each word the dot product of its four bytes of `unsigned` with its four of `signed`, exactly modulo 2³²
    /// where no signed byte is larger than [`Lanes::SIGNED_LEVELS`].
    /// # Safety
    /// See the trait.
    unsafe fn dot_bytes(sum: Self::Words, unsigned: Self::Words, signed: Self::Words) -> Self::Words;
    /// Signed words as f32, rounded to the nearest.
    /// # Safety
    /// See the trait.
    unsafe fn to_f32(words: Self::Words) -> Self::Vector;
}

/// Work that is generic over the instruction set. `run` and all it calls in inner loops must be `#[inline(always)]`, so
/// that it is compiled for the set.
pub(crate) trait Task {
    type Output;
    /// # Safety
    /// The processor must have the set of `L`.
    unsafe fn run<L: Lanes>(self) -> Self::Output;
}

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

impl Isa {
    /// The variable that forces a set by name, for tests and measurements.
    pub(crate) const VARIABLE: &'static str = "COSMINE_ISA";

    /// All sets that this processor has, the best first.
    pub(crate) fn available() -> Vec<Isa> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if avx512::has_vnni() {
                sets.push(Isa(Kind::Avx512Vnni));
            }
            if avx512::is_available() {
                sets.push(Isa(Kind::Avx512));
            }
            if avx2::has_vnni() {
                sets.push(Isa(Kind::AvxVnni));
            }
            if avx2::is_available() {
                sets.push(Isa(Kind::Avx2));
            }
        }
        sets.push(Isa(Kind::Portable));
        sets
    }

    /// The best set, or the one that the variable names where this processor has it.
    pub(crate) fn choose() -> Isa {
        let sets = Isa::available();
        let forced = std::env::var(Isa::VARIABLE).ok();
        *sets.iter().find(|isa| forced.as_deref() == Some(isa.name())).unwrap_or(&sets[0])
    }

    /// The name in reports and in the variable.
    pub(crate) fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => "avx512vnni",
        }
    }

    /// Whether products of bytes have an instruction of their own, four times as fast as those of f32.
    pub(crate) fn has_byte_products(self) -> bool {
        match self.0 {
            Kind::Portable => false,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 | Kind::Avx512 => false,
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni | Kind::Avx512Vnni => true,
        }
    }

    /// Runs a task compiled for this set.
    #[inline]
    pub(crate) fn dispatch<T: Task>(self, task: T) -> T::Output {
        match self.0 {
            // SAFETY: the portable set needs nothing of the processor.
            Kind::Portable => unsafe { task.run::<portable::Portable>() },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this kind exists only where `available` found the features.
            Kind::Avx2 => unsafe { avx2::run(task) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::AvxVnni => unsafe { avx2::run_vnni(task) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx512 => unsafe { avx512::run(task) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx512Vnni => unsafe { avx512::run_vnni(task) },
        }
    }
}
