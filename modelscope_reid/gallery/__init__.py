"""Who is this? Enrolled crops of people, kept on disk or on a cluster, searched, and answered with a label."""
