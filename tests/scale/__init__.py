"""Large trees and files, many readers, many layers, many mounts at once."""
