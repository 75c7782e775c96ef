//! What patches do to lists, the same for all kinds of filters.

use lateen_model::patch::PatchOperation;

/// How an element of a list is chosen.
pub(super) struct Choice<'a, T> {
    /// Whether the patch names an element at all.
    pub(super) named: bool,
    /// Whether an element is the one named.
    pub(super) is: &'a dyn Fn(&T) -> bool,
    /// Where the element would be if it were there: Istio's own filters that stock Envoy does not have.
    pub(super) absent: Option<usize>,
}

/// Adds to, takes from, or replaces in a list; merging is not its business.
pub(super) fn edit<T>(list: &mut Vec<T>, operation: PatchOperation, value: impl FnOnce() -> T, choice: &Choice<'_, T>) {
    let at = |list: &[T]| list.iter().position(choice.is);
    match operation {
        PatchOperation::Add => list.push(value()),
        PatchOperation::InsertFirst => list.insert(0, value()),
        PatchOperation::InsertAfter if !choice.named => list.push(value()),
        PatchOperation::InsertBefore if !choice.named => list.insert(0, value()),
        PatchOperation::InsertAfter => {
            if let Some(place) = at(list).map(|place| place + 1).or(choice.absent) {
                list.insert(place.min(list.len()), value());
            }
        }
        PatchOperation::InsertBefore => {
            if let Some(place) = at(list).or(choice.absent) {
                list.insert(place.min(list.len()), value());
            }
        }
        PatchOperation::Replace if choice.named => {
            if let Some(slot) = at(list).and_then(|place| list.get_mut(place)) {
                *slot = value();
            }
        }
        PatchOperation::Remove if choice.named => list.retain(|element| !(choice.is)(element)),
        PatchOperation::Replace
        | PatchOperation::Remove
        | PatchOperation::Merge
        | PatchOperation::MergeAndReplaceList => {}
    }
}
