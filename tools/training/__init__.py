"""Parts of the trainers in tools/: data mixtures, teachers, the resumable loop."""
