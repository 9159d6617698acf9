"""What runs where the data is: reads disks, leaves out what is known, seals and sends the rest."""
