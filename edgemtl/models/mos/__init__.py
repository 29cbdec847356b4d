"""The MOS family: face detection, landmarks and head pose in one network."""
