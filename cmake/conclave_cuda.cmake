# Finds CUDA and NCCL. Sets CONCLAVE_WITH_CUDA and CONCLAVE_WITH_NCCL; the twins no_cuda.cc and no_nccl.cc stand in where they are off.
set(CONCLAVE_CUDA_ARCHITECTURES "80;90a" CACHE STRING "GPU architectures to compile for")
set(CONCLAVE_WITH_CUDA OFF)
set(CONCLAVE_WITH_NCCL OFF)
