"""What our driver costs over bare Ray Tune, on a cluster of many nodes that one machine plays."""
