from softgate_pose.cli import main

main()
