//! Constants of which only what is not zero is stored.
//!
//! The values are the leaves of a tree with a level for each axis: first the tensor's axes in some order, then
//! those within its blocks. At a dense level each index is there; at a sparse one only those that are listed.

use flatbuffers::Vector;
use tract_tflite::tflite as schema;

use super::source::SourceTensor;

/// A level of the tree.
#[derive(Debug)]
enum Level {
    /// So many indices.
    Dense(usize),
    /// Of the node `i` of the level above those from `segments[i]` to `segments[i + 1]` of `indices`.
    Sparse { segments: Vec<usize>, indices: Vec<usize> },
}

/// How a tensor is stored.
#[derive(Debug)]
struct Tree {
    levels: Vec<Level>,
    /// For each level the axis it stands for; from the tensor's rank on those within blocks.
    order: Vec<usize>,
    /// For each axis within a block the tensor's axis, and the block's length along it.
    blocks: Vec<(usize, usize)>,
    shape: Vec<usize>,
    /// Nodes that may still be visited: a hostile tree has no end.
    budget: usize,
}

/// The bytes of the whole tensor, zeros included.
pub(super) fn densify(tensor: &SourceTensor<'_>) -> Result<Vec<u8>, String> {
    let data = tensor.data.ok_or("it is computed, not stored")?;
    let size = tensor.element.ok_or("its type is not converted")?.size();
    let mut tree = Tree::read(tensor)?;
    let mut places = Vec::new();
    let mut at = vec![0; tree.levels.len()];
    tree.walk(0, 0, &mut at, &mut places)?;
    if places.len() * size != data.len() {
        return Err(format!("it has {} bytes for {} values", data.len(), places.len()));
    }
    let mut dense = vec![0_u8; tensor.count() * size];
    for (value, place) in data.chunks_exact(size).zip(places) {
        let target = dense.get_mut(place * size..(place + 1) * size);
        target.ok_or("a value lies outside of its shape")?.copy_from_slice(value);
    }
    Ok(dense)
}

// === impl Tree ===

impl Tree {
    fn read(tensor: &SourceTensor<'_>) -> Result<Self, String> {
        let sparsity = tensor.sparsity.as_ref().ok_or("it does not say how it is stored")?;
        let rank = tensor.shape.len();
        let indices = |list: Option<Vector<'_, i32>>| {
            let list = list.into_iter().flatten().take(2 * rank + 1);
            list.map(|axis| usize::try_from(axis).ok()).collect::<Option<Vec<_>>>()
        };
        let unknown = "its sparsity names axes that are not there";
        let order = indices(sparsity.traversal_order()).ok_or(unknown)?;
        let block_map = indices(sparsity.block_map()).ok_or(unknown)?;
        let most = tensor.count() + 1;
        let levels = sparsity.dim_metadata().into_iter().flatten().take(2 * rank + 1);
        let levels: Vec<_> = levels.map(|level| Level::read(&level, most)).collect::<Result<_, _>>()?;
        let mut sorted = order.clone();
        sorted.sort_unstable();
        let all = rank + block_map.len();
        if sorted != (0..all).collect::<Vec<_>>()
            || levels.len() != all
            || block_map.iter().any(|axis| *axis >= rank)
        {
            return Err(unknown.into());
        }
        let mut blocks = Vec::new();
        for (index, axis) in block_map.into_iter().enumerate() {
            let level =
                order.iter().position(|axis| *axis == rank + index).and_then(|level| levels.get(level));
            let Some(Level::Dense(length)) = level else { return Err("its blocks are not dense".into()) };
            blocks.push((axis, *length));
        }
        let budget = most.saturating_mul(2 * all + 2);
        Ok(Self { levels, order, blocks, shape: tensor.shape.clone(), budget })
    }

    /// Visits what is below a node and adds where each leaf stands in the whole tensor.
    fn walk(
        &mut self,
        level: usize,
        node: usize,
        at: &mut [usize],
        places: &mut Vec<usize>,
    ) -> Result<(), String> {
        self.budget = self.budget.checked_sub(1).ok_or("its sparsity describes more than its shape")?;
        let (range, listed) = match self.levels.get(level) {
            None => {
                places.push(self.place(at)?);
                return Ok(());
            }
            Some(Level::Dense(length)) => (node * length..(node + 1) * length, false),
            Some(Level::Sparse { segments, .. }) => {
                let ends = (segments.get(node), segments.get(node + 1));
                let (Some(start), Some(end)) = ends else { return Err("its sparsity breaks off".into()) };
                (*start..*end, true)
            }
        };
        for child in range.clone() {
            let index = match self.levels.get(level) {
                Some(Level::Sparse { indices, .. }) if listed => {
                    *indices.get(child).ok_or("its sparsity breaks off")?
                }
                _ => child - range.start,
            };
            if let Some(slot) = at.get_mut(level) {
                *slot = index;
            }
            self.walk(level + 1, child, at, places)?;
        }
        Ok(())
    }

    /// The place of a leaf in the whole tensor.
    fn place(&self, at: &[usize]) -> Result<usize, String> {
        let rank = self.shape.len();
        let mut index = vec![0_usize; rank];
        // The blocks first, then what is within them: in the order of the axes, not of the levels.
        let mut within = vec![(0, 1); rank];
        for (axis, at) in self.order.iter().zip(at) {
            if let Some(slot) = index.get_mut(*axis) {
                *slot = *at;
            } else if let Some((axis, length)) = self.blocks.get(axis - rank)
                && let Some(slot) = within.get_mut(*axis)
            {
                *slot = (*at, *length);
            }
        }
        let mut place = 0_usize;
        for ((index, (within, block)), length) in index.iter().zip(&within).zip(&self.shape) {
            let index = index.checked_mul(*block).and_then(|start| start.checked_add(*within));
            let index = index.filter(|index| index < length).ok_or("a value lies outside of its shape")?;
            place = place * length + index;
        }
        Ok(place)
    }
}

// === impl Level ===

impl Level {
    /// `most`: no list of a level is longer than all values and one.
    fn read(level: &schema::DimensionMetadata<'_>, most: usize) -> Result<Self, String> {
        if level.format() == schema::DimensionType::DENSE {
            let length = usize::try_from(level.dense_size()).ok().filter(|length| *length < most);
            return length.map(Self::Dense).ok_or_else(|| "its sparsity has a wrong length".into());
        }
        let segments = level
            .array_segments_as_int_32_vector()
            .map(|list| numbers(list.values(), most))
            .or_else(|| level.array_segments_as_uint_16_vector().map(|list| numbers(list.values(), most)))
            .or_else(|| level.array_segments_as_uint_8_vector().map(|list| numbers(list.values(), most)));
        let indices = level
            .array_indices_as_int_32_vector()
            .map(|list| numbers(list.values(), most))
            .or_else(|| level.array_indices_as_uint_16_vector().map(|list| numbers(list.values(), most)))
            .or_else(|| level.array_indices_as_uint_8_vector().map(|list| numbers(list.values(), most)));
        match (segments.flatten(), indices.flatten()) {
            (Some(segments), Some(indices)) => Ok(Self::Sparse { segments, indices }),
            _ => Err("its sparsity has wrong lists".into()),
        }
    }
}

/// A list of indices; `None` where one is below zero or there are too many.
fn numbers<'a, T>(list: Option<Vector<'a, T>>, most: usize) -> Option<Vec<usize>>
where
    T: flatbuffers::Follow<'a> + 'a,
    T::Inner: TryInto<usize>,
{
    let list = list?;
    if list.len() > most {
        return None;
    }
    list.iter().map(|number| number.try_into().ok()).collect()
}
