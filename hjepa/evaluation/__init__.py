"Features and read-outs of them: encodings, probes, few labels, health, features on disk, neighbours, cost."
