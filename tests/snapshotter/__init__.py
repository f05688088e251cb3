"""Tests of snapshotter."""
