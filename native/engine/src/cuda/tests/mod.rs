mod kernels;
mod networks;
