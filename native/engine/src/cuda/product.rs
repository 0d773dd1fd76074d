//! A product of matrices as libraries take it: by columns.

/// `to` (m, n), by rows, becomes a (m, k) · b (k, n), or has it added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) m: u64,
    pub(crate) n: u64,
    pub(crate) k: u64,
    /// Steps along the rows and columns of each, of which one is 1.
    pub(crate) a: [u64; 2],
    pub(crate) b: [u64; 2],
    /// Whether the result is f32 when the factors are not.
    pub(crate) wide: bool,
    /// Whether a value for each column is added.
    pub(crate) bias: bool,
    /// Whether max(x, 0) comes last.
    pub(crate) relu: bool,
    pub(crate) add: bool,
}

/// With the places of the matrices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub(crate) shape: Shape,
    pub(crate) a: u64,
    pub(crate) b: u64,
    /// As precise as the factors; 0 for none.
    pub(crate) bias: u64,
    pub(crate) to: u64,
}

/// A matrix whose columns lie one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) rows: u64,
    pub(crate) columns: u64,
    /// From a column to the next.
    pub(crate) step: u64,
    /// Whether it is to be read as its transpose.
    pub(crate) transposed: bool,
}

impl Shape {
    /// Read by columns, the result is (n, m), and the product of b's transpose and a's: these two, then the result.
    pub(crate) fn by_columns(&self) -> [Columns; 3] {
        let Shape { m, n, k, a, b, .. } = *self;
        // Where a matrix has one row, the step to the next means nothing.
        let of = |[row, column]: [u64; 2], rows: u64, columns: u64| match column {
            1 => Columns { rows: columns, columns: rows, step: row.max(columns), transposed: false },
            _ => Columns { rows, columns, step: column.max(rows), transposed: true },
        };
        [of(b, k, n), of(a, m, k), Columns { rows: n, columns: m, step: n, transposed: false }]
    }

    /// Whether there is anything to compute.
    pub(crate) fn is_empty(&self) -> bool {
        self.m == 0 || self.n == 0 || self.k == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Place of (i, j) of a matrix by columns, as it is to be read.
    fn place(matrix: &Columns, i: u64, j: u64) -> usize {
        assert!(matrix.step >= matrix.rows);
        let (row, column) = if matrix.transposed { (j, i) } else { (i, j) };
        assert!(row < matrix.rows && column < matrix.columns);
        (column * matrix.step + row) as usize
    }

    #[test]
    fn by_columns_it_is_the_same_product() {
        let value = |place: usize| (place * 7 % 11) as f64 - 5.0;
        for (m, n, k) in [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 5), (1, 1, 1)] {
            for (a, b) in [([k, 1], [n, 1]), ([k, 1], [1, k]), ([1, m], [n, 1]), ([1, m], [1, k])] {
                let shape = Shape { m, n, k, a, b, wide: false, bias: false, relu: false, add: false };
                let [left, right, to] = shape.by_columns();
                for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let of = |l: u64| {
                        value((i * a[0] + l * a[1]) as usize) * value((l * b[0] + j * b[1]) as usize)
                    };
                    let expected: f64 = (0..k).map(of).sum();
                    let by_columns = |l: u64| value(place(&left, j, l)) * value(place(&right, l, i));
                    let found: f64 = (0..k).map(by_columns).sum();
                    assert_eq!(found, expected, "{shape:?} {i} {j}");
                    assert_eq!(place(&to, j, i) as u64, i * n + j);
                }
            }
        }
    }
}
