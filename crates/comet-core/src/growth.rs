//! How lists grow of which there are millions: by a quarter, where a [`Vec`] doubles. What is allocated and not used is
//! then a fifth at most, and for each element at most five are copied until the list has its length.

/// The first capacity of a list, and the least it grows by.
const STEP_MIN: usize = 4;

/// Makes space for one more element.
#[inline]
pub(crate) fn reserve_one<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 4).max(STEP_MIN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_grows_by_a_quarter() {
        let (mut list, mut copied) = (Vec::new(), 0);
        for at in 0..100_000_usize {
            let capacity = list.capacity();
            reserve_one(&mut list);
            if list.capacity() > capacity {
                copied += at;
            }
            list.push(at);
            assert!(list.capacity() <= list.len() + (at / 4).max(STEP_MIN));
        }
        assert!(copied < 5 * list.len(), "{copied}");
    }
}
