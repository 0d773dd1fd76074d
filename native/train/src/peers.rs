//! GPUs of one machine that add gradients up among themselves.

use firesteel_engine::{Gpu, GpuAddress, Peers, Watch};
use firesteel_error::Result;
use firesteel_model::Graph;
use tracing::info;

use crate::group::Group;

/// The most values of tables, 64 MiB of them: a step adds all of them up, also those of rows that nobody reads.
const MOST: usize = 1 << 24;

/// Joins the GPUs of all workers, where each has one of the same machine to itself and NCCL is there. Otherwise none, on all
/// workers alike: gradients then travel over the fabric.
///
/// # Errors
/// Those of the fabric, and, on all workers alike, a variable that names an NCCL that one of them has not.
pub(crate) fn join(group: &mut Group, gpu: Option<&Gpu>, graph: &Graph) -> Result<Option<Peers>> {
    if group.world() == 1 {
        return Ok(None);
    }
    let tables: usize = graph.tables().iter().map(|table| table.range.len()).sum();
    let addresses = group.share(gpu.map_or(Ok(None), Gpu::address))?;
    let reach = match tables <= MOST {
        true => GpuAddress::reach_each_other(&addresses),
        false => Err(format!("tables have {tables} values, at most {MOST} are added up there")),
    };
    let Some(gpu) = gpu.filter(|_| reach.is_ok()) else {
        // Of CPUs nobody expects it.
        if let (Some(_), Err(why)) = (gpu, reach) {
            info!("gradients do not go from GPU to GPU: {why}");
        }
        return Ok(None);
    };
    let place = [group.rank(), group.world()];
    let invitation = if group.rank() == 0 { gpu.invitation() } else { Ok(Vec::new()) };
    // What cannot be done among GPUs is done by the fabric.
    let invitation = group.share(Ok(invitation.map_err(|e| e.to_string())))?.swap_remove(0);
    let joined = invitation.and_then(|bytes| {
        let joined = gpu.join(&bytes, place, watch(group));
        joined.map_err(|e| e.to_string())
    });
    let (peers, failed) = match joined {
        Ok(peers) => (Some(peers), None),
        Err(e) => (None, Some(e)),
    };
    let failed = group.share(Ok(failed))?;
    match failed.into_iter().enumerate().find_map(|(rank, e)| Some((rank, e?))) {
        None => {
            info!("gradients go from GPU to GPU");
            Ok(peers)
        }
        Some((rank, e)) => {
            info!("gradients do not go from GPU to GPU: rank {rank} cannot join the others: {e}");
            Ok(None)
        }
    }
}

/// Looks at the fabric, which hears of a worker that is lost.
fn watch(group: &Group) -> Watch {
    let fabric = group.fabric();
    let deadline = fabric.deadline();
    Watch { check: Box::new(move || fabric.check()), deadline }
}
