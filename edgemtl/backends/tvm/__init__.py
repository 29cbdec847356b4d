"""CPUs by Apache TVM: Arm boards, and this machine by the same path."""
